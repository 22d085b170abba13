"""A copy of a directory that a job goes on writing to: file by file, each named by its SHA-256.

The directory is the job's and is trusted in nothing: see `worker.store.walk`. Where anything in it
changes, comes or goes before the last file is copied, it is gone through once more for that, a few
times: a copy never mixes files of two checkpoints. What its author is still writing
(``.partial-…``, as the built-in runner and the helper call it) is passed over.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from worker.store.disk import require_free
from worker.store.refusals import NoRoom, StoreError
from worker.store.trees import File
from worker.store.walk import Walk

MOST_FILES: Final = 1_000
"""More have no copy: each file is a transfer of its own."""
_MOST_ENTRIES: Final = 10_000
_MOST_LEFT_OUT: Final = 20
_PASSES: Final = 5
_PARTIAL: Final = ".partial-"
_BLOCK: Final = 1 << 20
_OLD_ENOUGH_S: Final = 2.0
"""A file that was changed within this time may be changed once more under the same mark."""
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_Mark = tuple[int, int, int, int, int]


class Unsettled(StoreError):
    """There is no copy now: something changed under it, or there is too much."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """What the directory had."""

    files: tuple[File, ...]
    listing: str
    """SHA-256 of the list of files, which lies beside them under that name."""
    fresh: tuple[File, ...]
    """What lies in the staging directory: each file, and the list, by SHA-256 as its name."""
    left_out: tuple[str, ...] = ()
    """What is no regular file with one name; at most 20."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(one.size for one in self.files)

    @property
    def names(self) -> frozenset[str]:
        """What must be in the store for it to be whole."""
        return frozenset({self.listing, *(one.sha256 for one in self.files)})


class _Changed(Exception):
    """A file did while it was copied."""


class Camera:
    """Takes snapshots of one directory. What it has seen before it does not read again."""

    def __init__(
        self,
        source: Path,
        staging: Path,
        *,
        most_bytes: int,
        keep_free: int,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """``most_bytes``: of all files together; 0: no cap. ``keep_free``: bytes of the staging
        directory's disk that stay free. ``check``: called all the while; raises to end it."""
        self._source = source
        self._staging = staging
        self._most_bytes = most_bytes
        self._keep_free = keep_free
        self._check = check
        self._seen: dict[_Mark, str] = {}

    def take(self, there: Collection[str]) -> Snapshot | None:
        """A snapshot; None: there is nothing. ``there``: SHA-256 of files that need no copy.

        The staging directory is made anew. Raises Unsettled, NoRoom, and what ``check`` raises.
        """
        shutil.rmtree(self._staging, ignore_errors=True)
        try:
            self._staging.mkdir(parents=True, mode=0o700)
            return self._take(there)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoRoom(f"the disk of {self._staging.parent} is full") from None
            raise Unsettled(str(error)) from None

    def _take(self, there: Collection[str]) -> Snapshot | None:
        taken: dict[str, tuple[_Mark, File]] = {}
        top = os.open(self._source, _DIRECTORY)
        try:
            for _ in range(_PASSES):
                left_out: list[str] = []
                changed = self._look(top, taken, there, left_out)
                if not changed:
                    break
            else:
                raise Unsettled(f"{changed} changed, came or went while others were copied")
        finally:
            os.close(top)
        if not taken:
            return None
        files = [file for _, file in taken.values()]
        text = listing_of(files)
        listing = hashlib.sha256(text).hexdigest()
        fresh = {one.sha256: File(one.sha256, one.size, one.sha256) for one in files}
        if listing not in there:
            (self._staging / listing).write_bytes(text)
            fresh[listing] = File(listing, len(text), listing)
        return Snapshot(
            files=tuple(files),
            listing=listing,
            fresh=tuple(one for one in fresh.values() if one.sha256 not in there),
            left_out=tuple(left_out[:_MOST_LEFT_OUT]),
        )

    def _look(
        self,
        top: int,
        taken: dict[str, tuple[_Mark, File]],
        there: Collection[str],
        left_out: list[str],
    ) -> str:
        """Copy what is not in ``taken`` yet, or has changed since. What is not the same any more
        when all are copied; '' for nothing."""
        found: dict[str, tuple[_Mark, File]] = {}
        unsettled = ""
        for name, file, about in _regular(top, left_out.append):
            size = sum(one.size for _, one in found.values()) + about.st_size
            self._allow(len(found), size)
            mark = _mark(about)
            if name in taken and taken[name][0] == mark:
                found[name] = taken[name]
                continue
            sha256 = self._seen.get(mark, "")
            if sha256 not in there and not (self._staging / sha256).is_file():
                try:
                    sha256 = self._copy(file, name, mark)
                except _Changed:
                    unsettled = name
                    continue
            if time.time() - max(about.st_mtime, about.st_ctime) > _OLD_ENOUGH_S:
                self._seen[mark] = sha256
            found[name] = (mark, File(name, about.st_size, sha256))
        taken.clear()
        taken.update(found)
        now = {name: _mark(about) for name, _, about in _regular(top, lambda why: None)}
        self._seen = {mark: sha for mark, sha in self._seen.items() if mark in now.values()}
        other = (name for name in sorted(now.keys() | found.keys()) if not _same(name, now, found))
        return unsettled or next(other, "")

    def _allow(self, files: int, size: int) -> None:
        if files >= MOST_FILES:
            raise Unsettled(f"it has more than {MOST_FILES} files: put them into one")
        if self._most_bytes and size > self._most_bytes:
            raise Unsettled(f"it has more than {self._most_bytes >> 20} MiB (storage.output_mb)")

    def _copy(self, file: IO[bytes], name: str, mark: _Mark) -> str:
        """Its SHA-256, once the copy has that name."""
        require_free(self._staging, mark[2], self._keep_free)
        digest, left = hashlib.sha256(), mark[2]
        partial = self._staging / _PARTIAL
        with partial.open("wb") as out:
            while left and (block := file.read(min(_BLOCK, left))):
                self._check()
                digest.update(block)
                out.write(block)
                left -= len(block)
        if left or _mark(os.fstat(file.fileno())) != mark:
            raise _Changed
        partial.rename(self._staging / digest.hexdigest())
        return digest.hexdigest()


def _same(name: str, now: Mapping[str, _Mark], found: Mapping[str, tuple[_Mark, File]]) -> bool:
    return name in now and name in found and now[name] == found[name][0]


def listing_of(files: Collection[File]) -> bytes:
    """The list of files as it is stored."""
    return json.dumps([[one.name, one.size, one.sha256] for one in files]).encode()


def _regular(
    top: int, leave_out: Callable[[str], None]
) -> Iterator[tuple[str, IO[bytes], os.stat_result]]:
    """What is copied of the open directory ``top``: name, the file while it is open, its stat."""
    for name, fd in Walk(leave_out, most_entries=_MOST_ENTRIES).files(top):
        with os.fdopen(fd, "rb") as file:
            about = os.fstat(fd)
            if _is_partial(name.parts):
                continue
            if about.st_nlink == 1:
                yield str(name), file, about
            else:
                leave_out(f"{name}: a hard link")


def _is_partial(parts: Collection[str]) -> bool:
    return any(part.startswith(_PARTIAL) for part in parts)


def _mark(about: os.stat_result) -> _Mark:
    """Another one if the content is another: no job can set a ctime."""
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns
