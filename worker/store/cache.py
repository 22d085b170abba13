"""The node's cache of fetched trees: by content, under a cap, shared by all of its processes.

    lock                 held while the directory is looked over or changed; never for long
    entries/<sha256>/    data/; about.json; size; users/<random>, each held by one who uses it
    partial/<random>/    the same, while it is written, and lock, held by the writer
    keys/<sha256>.lock   held while one source is fetched: the second who wants it waits
    known/<sha256>.json  which content a source had, and by what it can be told to be unchanged

Whoever dies lets go of its locks, and what it was writing is swept by the next who looks. An entry
is named by its content, comes to its name by one rename, and is never written to again.

A user has a lock of its own, not a share of a common one: whoever clears up after a dead keeper
ends all that hold the attempt's locks, and must not meet another attempt among them.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self

from worker.keeper.settle import remove_tree
from worker.store import locks
from worker.store.disk import free_bytes, taken
from worker.store.durable import sync_directory
from worker.store.locks import Held
from worker.store.refusals import NoRoom
from worker.store.trees import Tree
from worker.store.witness import Witness

_MB: Final = 1 << 20
_AMPLE: Final = 64 << 20
"""The most that is reserved beyond what is needed at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A tree in the cache, kept there as long as this is not closed."""

    sha256: str
    data: Path
    """The directory with its files; read-only."""
    held: Held

    @property
    def size(self) -> int:
        """Bytes that it takes of the cache."""
        return _size(self.data.parent)

    def close(self) -> None:
        """Safe to call twice."""
        self.held.close()

    @contextmanager
    def unless_kept(self) -> Iterator[None]:
        """Let go of it if what is done inside raises: then nobody gets it."""
        try:
            yield
        except BaseException:
            self.close()
            raise


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """What is known of a source."""

    sha256: str
    """Its content."""
    token: str
    """What tells whether it has changed; '' if nothing does."""
    folder: bool
    asked: float
    """When the source was asked, seconds since the epoch."""


class Partial:
    """Room for a tree, and the directory that it is written to."""

    def __init__(self, cache: Cache, directory: Path, held: Held) -> None:
        self._cache = cache
        self.directory = directory
        self.held = held

    @property
    def data(self) -> Path:
        """Where the tree is to be written."""
        return self.directory / "data"

    def grow(self, total: int) -> int:
        """Have room for ``total`` bytes, and for some more if there is any; returns for how many.

        Raises NoRoom.
        """
        with contextlib.suppress(NoRoom):
            ample = total + min(max(total, _MB), _AMPLE)
            self._cache.reserve(self, ample, evict=False)
            return ample
        self._cache.reserve(self, total)
        return total

    def publish(self, tree: Tree) -> Entry:
        """Make it an entry; returns that, or the one with the same content that is there."""
        return self._cache.publish(self, tree)

    def close(self) -> None:
        """Remove what was not published. Safe to call twice."""
        if self.held.fd >= 0:
            remove_tree(self.directory)
            self.held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Cache:
    """See the module's docstring."""

    def __init__(self, root: Path, *, cap: int, keep_free: int) -> None:
        """``cap``: bytes of all entries. ``keep_free``: bytes of the disk to leave. The directory
        is made when it is first needed."""
        self._root = root
        self._cap = cap
        self._keep_free = keep_free

    # looking

    def use(self, sha256: str, check: Callable[[], None] = lambda: None) -> Entry | None:
        """The entry with this content, if it is there and whole."""
        with self._locked(check):
            return self._use(sha256)

    def _use(self, sha256: str) -> Entry | None:
        directory = self._entries / sha256
        if not directory.is_dir():
            return None
        if not Witness.read(directory / "about.json").stands(directory / "data"):
            # somebody who can write where the node can has changed it
            self._drop(directory)
            return None
        os.utime(directory / "size")
        return self._held(sha256)

    def _held(self, sha256: str) -> Entry:
        directory = self._entries / sha256
        (directory / "users").mkdir(exist_ok=True, mode=0o700)
        held = locks.attempt(directory / "users" / uuid.uuid4().hex)
        assert held is not None  # noqa: S101 - nobody else knows of it
        return Entry(sha256=sha256, data=directory / "data", held=held)

    def known(self, key: str) -> Known | None:
        """What the source ``key`` had when it was last fetched."""
        try:
            found = json.loads((self._known / f"{key}.json").read_bytes())
            return Known(
                sha256=str(found["sha256"]),
                token=str(found["token"]),
                folder=bool(found["folder"]),
                asked=float(found["asked"]),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def remember(self, key: str, known: Known) -> None:
        """What the source ``key`` has."""
        path = self._known / f"{key}.json"
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        with self._locked():  # else whoever sweeps takes it for what the dead left
            partial.write_text(json.dumps(asdict(known)))
            partial.replace(path)

    def alone(self, key: str, check: Callable[[], None]) -> Held:
        """Be the only one who fetches the source ``key``; waits for whoever is."""
        self._make()
        return locks.wait(self._keys / f"{key}.lock", check)

    # writing

    def begin(self, need: int, check: Callable[[], None] = lambda: None) -> Partial:
        """Room for a tree of ``need`` bytes; unused entries make way. Raises NoRoom."""
        with self._locked(check):
            self._sweep()
            self._make_room(need)
            directory = self._partial / uuid.uuid4().hex
            (directory / "data").mkdir(parents=True, mode=0o700)
            held = locks.attempt(directory / "lock")
            assert held is not None  # noqa: S101 - nobody else knows of it
            _write_size(directory, need)
        return Partial(self, directory, held)

    def reserve(self, partial: Partial, total: int, *, evict: bool = True) -> None:
        """See `Partial.grow`. ``evict``: entries that nobody uses may go for it."""
        with self._locked():
            self._make_room(total, apart=partial.directory, evict=evict)
            _write_size(partial.directory, total)

    def publish(self, partial: Partial, tree: Tree) -> Entry:
        """See `Partial.publish`."""
        Witness.of(partial.data, tree).write(partial.directory / "about.json")
        sync_directory(partial.directory)
        with self._locked():
            there = self._use(tree.sha256)
            if there is None:
                target = self._entries / tree.sha256
                if target.exists():  # changed by somebody, and in use: it gives way all the same
                    target.rename(self._partial / uuid.uuid4().hex)
                _write_size(partial.directory, taken(tree))
                partial.directory.rename(target)
                sync_directory(self._entries)
                partial.held.close()
                return self._held(tree.sha256)
        partial.close()
        return there

    def sweep(self) -> None:
        """Remove what the dead left. Nothing happens where there is no cache yet."""
        if self._root.is_dir():
            with self._locked():
                self._sweep()

    # the room

    def _make_room(self, need: int, apart: Path | None = None, *, evict: bool = True) -> None:
        """``apart``: a partial whose reservation is the one to be made."""
        if need > self._cap:
            raise NoRoom(
                f"{_mib(need)} are needed, and this node's cache takes {_mib(self._cap)} in all "
                "(storage.cache_mb)"
            )
        reserved, unwritten = self._reservations(apart)
        written = 0 if apart is None else _written(apart)
        sizes = {path: _size(path) for path in self._entries.iterdir()}
        oldest = sorted(sizes, key=_last_used) if evict else []
        used = sum(sizes.values()) + reserved
        while True:
            over_cap = used + need > self._cap
            free = free_bytes(self._root) - unwritten - max(0, need - written)
            if not over_cap and free >= self._keep_free:
                return
            victim = next((path for path in oldest if self._drop(path)), None)
            if victim is None:
                raise NoRoom(self._why(over_cap, need, used, free))
            oldest = oldest[oldest.index(victim) + 1 :]
            used -= sizes[victim]

    def _why(self, over_cap: bool, need: int, used: int, free: int) -> str:
        if over_cap:
            return (
                f"{_mib(need)} are needed, and {_mib(used)} of the {_mib(self._cap)} of this "
                "node's cache (storage.cache_mb) are in use by other jobs"
            )
        return (
            f"{_mib(need)} are needed, which would leave {_mib(max(0, free))} of this node's disk "
            f"free, less than storage.keep_free_mb ({_mib(self._keep_free)})"
        )

    def _reservations(self, apart: Path | None) -> tuple[int, int]:
        """Bytes that partials have reserved, and those of them that are not on disk yet."""
        reserved = unwritten = 0
        for path in self._partial.iterdir():
            if path != apart:
                size = _size(path)
                reserved += size
                unwritten += max(0, size - _written(path))
        return reserved, unwritten

    def _drop(self, directory: Path) -> bool:
        """Remove an entry that nobody uses. Under the lock."""
        for user in directory.glob("users/*"):
            held = locks.attempt(user, create=False)
            if held is None:
                return False
            user.unlink(missing_ok=True)
            held.close()
        grave = self._partial / uuid.uuid4().hex
        directory.rename(grave)  # first: it must not be found while it is removed
        remove_tree(grave)
        return True

    def _sweep(self) -> None:
        for directory in self._partial.iterdir():
            held = locks.attempt(directory / "lock")
            if held is not None:
                if not any(_in_use(user) for user in directory.glob("users/*")):
                    remove_tree(directory)
                held.close()
        for path in self._keys.iterdir():
            held = locks.attempt(path, create=False)
            if held is not None:
                path.unlink(missing_ok=True)
                held.close()
        for path in self._known.iterdir():
            known = self.known(path.stem)
            if known is None or not (self._entries / known.sha256).is_dir():
                path.unlink(missing_ok=True)

    # the directory

    @contextmanager
    def _locked(self, check: Callable[[], None] = lambda: None) -> Iterator[None]:
        self._make()
        with locks.wait(self._root / "lock", check):
            yield

    def _make(self) -> None:
        for path in (self._root, self._entries, self._partial, self._keys, self._known):
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700, parents=True)

    @property
    def _entries(self) -> Path:
        return self._root / "entries"

    @property
    def _partial(self) -> Path:
        return self._root / "partial"

    @property
    def _keys(self) -> Path:
        return self._root / "keys"

    @property
    def _known(self) -> Path:
        return self._root / "known"


def _in_use(user: Path) -> bool:
    held = locks.attempt(user, create=False)
    if held is not None:
        held.close()
    return held is None and user.exists()


def _size(directory: Path) -> int:
    """Bytes that the entry or partial takes, by its own account."""
    try:
        return int((directory / "size").read_bytes())
    except (OSError, ValueError):
        return 0


def _write_size(directory: Path, size: int) -> None:
    partial = directory / "size.partial"
    partial.write_text(str(size))
    partial.replace(directory / "size")


def _written(directory: Path) -> int:
    """Bytes beneath ``directory`` on disk."""
    total = 0
    for at, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(f"{at}/{name}").st_blocks * 512
    return total


def _last_used(directory: Path) -> float:
    try:
        return (directory / "size").stat().st_mtime
    except OSError:
        return 0.0


def _mib(size: int) -> str:
    return f"{size / _MB:,.1f} MiB"
