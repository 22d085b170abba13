"""Brings what a URL names into the cache: once, however many want it at the same time."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from worker.store.cache import Cache, Entry, Known, Partial
from worker.store.policy import Policy
from worker.store.refusals import DataRefused, DataUnavailable, StoreError
from worker.store.send import Waiting, send
from worker.store.sources import Source
from worker.store.trees import File, Tree, manifest_sha256, of_one

_MOST_FILES: Final = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Moved:
    """How far a transfer is. Bytes."""

    done: int
    total: int | None
    """None: the source does not say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """What a URL had, kept in the cache until the entry is closed."""

    entry: Entry
    folder: bool


class Fetcher:
    """Fetches by errands, into one cache."""

    def __init__(
        self,
        cache: Cache,
        policy: Policy,
        *,
        check: Callable[[], None] = lambda: None,
        moved: Callable[[str, Moved], None] = lambda shown, moved: None,
    ) -> None:
        """``check``: called while something takes long; raises to end it. ``moved``: told how far
        the transfer of a URL is."""
        self._cache = cache
        self._policy = policy
        self._check = check
        self._moved = moved

    def fetch(
        self, source: Source, *, most_bytes: int | None = None, most_files: int = _MOST_FILES
    ) -> Fetched:
        """The source's content. Raises DataRefused, TooLarge, DataUnavailable, NoRoom, and what
        ``check`` raises."""
        pinned = self._pinned(source)
        if pinned is not None:
            return pinned
        asked = time.time()
        key = hashlib.sha256(f"{source.url}\n{source.name}".encode()).hexdigest()
        with self._cache.alone(key, self._check):
            fetched = self._pinned(source) or _Transfer(
                self._cache, self._policy, source, self._check, self._moved
            ).run(key, asked, most_bytes, most_files)
        if source.pin is not None and not _is(fetched, source):
            sha256 = _sha256(fetched)
            fetched.entry.close()
            raise DataRefused(
                f"{source.shown}: its SHA-256 is {sha256}, and the job's pin says {source.pin}"
            )
        return fetched

    def _pinned(self, source: Source) -> Fetched | None:
        """What is in the cache under the source's pin: then nobody need be asked."""
        if source.pin is None:
            return None
        for sha256, folder in ((of_one(source.name, source.pin), False), (source.pin, True)):
            entry = self._cache.use(sha256, self._check)
            if entry is not None:
                return Fetched(entry=entry, folder=folder)
        return None


class _Transfer:
    """One transfer, by the one process that may make it now."""

    def __init__(
        self,
        cache: Cache,
        policy: Policy,
        source: Source,
        check: Callable[[], None],
        moved: Callable[[str, Moved], None],
    ) -> None:
        self._cache = cache
        self._policy = policy
        self._source = source
        self._check = check
        self._moved = moved
        self._partial: Partial | None = None
        self._there: Entry | None = None
        self._total: int | None = None
        self._folder = False
        self._token = ""
        self._known: Known | None = None
        self._asked = 0.0

    def run(self, key: str, asked: float, most_bytes: int | None, most_files: int) -> Fetched:
        source, policy = self._source, self._policy
        self._known = self._cache.known(key)
        just = self._fetched_since(asked)
        if just is not None:
            return just
        request = {
            "errand": "fetch",
            "scheme": source.scheme,
            "url": source.url,
            "name": source.name,
            "options": dict(policy.options.get(source.scheme, {})),
            "hosts": list(policy.hosts),
            "most_files": most_files,
            "most_bytes": most_bytes,
        }
        waiting = Waiting(stall=policy.stall, check=self._check, moved=self._tell)
        try:
            done = send(request, self._answer, waiting)
            if self._there is not None:
                self._remember(key, self._there.sha256)
                there, self._there = self._there, None
                return Fetched(entry=there, folder=self._folder)
            assert self._partial is not None  # noqa: S101 - it was told where to write
            entry = self._partial.publish(tree_from(done))
        except (DataUnavailable, DataRefused) as error:
            raise _named(error, source.shown) from None
        finally:
            if self._partial is not None:
                self._partial.close()
            if self._there is not None:
                self._there.close()
        with entry.unless_kept():
            self._remember(key, entry.sha256)
            if self._total is not None:
                self._moved(source.shown, Moved(done=self._total, total=self._total))
        return Fetched(entry=entry, folder=self._folder)

    def _answer(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        if "room" in asked:
            assert self._partial is not None  # noqa: S101 - it asks for more than it has
            return {"room": self._partial.grow(int(asked["room"]))}
        self._asked = time.time()
        self._folder, self._token = bool(asked["folder"]), str(asked["token"])
        self._total = None if asked["size"] is None else int(asked["size"])
        if self._known is not None and self._token and self._token == self._known.token:
            self._there = self._cache.use(self._known.sha256, self._check)
            if self._there is not None:
                return {}
        need = self._total or 0  # where it does not say, room is made as it comes
        self._partial = self._cache.begin(need, self._check)
        self._moved(self._source.shown, Moved(done=0, total=self._total))
        return {"into": str(self._partial.data), "room": need}

    def _tell(self, done: int) -> None:
        self._moved(self._source.shown, Moved(done=done, total=self._total))

    def _fetched_since(self, asked: float) -> Fetched | None:
        """What another process fetched while this one waited: it is new enough."""
        if self._known is None or self._known.asked < asked:
            return None
        entry = self._cache.use(self._known.sha256, self._check)
        return None if entry is None else Fetched(entry=entry, folder=self._known.folder)

    def _remember(self, key: str, sha256: str) -> None:
        known = Known(sha256=sha256, token=self._token, folder=self._folder, asked=self._asked)
        self._cache.remember(key, known)


def tree_from(done: Mapping[str, Any]) -> Tree:
    """The tree that an errand says it wrote."""
    files = tuple(File(str(name), int(size), str(sha256)) for name, size, sha256 in done["files"])
    return Tree(files, manifest_sha256(files))


def _is(fetched: Fetched, source: Source) -> bool:
    """Whether it is what the source is pinned to."""
    assert source.pin is not None  # noqa: S101 - asked only then
    wanted = source.pin if fetched.folder else of_one(source.name, source.pin)
    return fetched.entry.sha256 == wanted


def _sha256(fetched: Fetched) -> str:
    """What its pin would be."""
    if fetched.folder:
        return fetched.entry.sha256
    [file] = fetched.entry.data.iterdir()
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _named(error: StoreError, shown: str) -> StoreError:
    """With the place in it."""
    return error if shown in str(error) else type(error)(f"{shown}: {error}")
