"""What the files of an attempt take: those in its directories, and those that have lost their name.

Whatever the job does meanwhile, nothing here leaves its directories: each is opened beneath the one
that it was found in, and never through a link.
"""

# No pathlib here: its import costs each slot a megabyte.
# ruff: noqa: PTH115, PTH116, PTH208

from __future__ import annotations

import errno
import os
import stat

from worker.keeper import prctl, procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_FILES = 100_000
"""Files and directories of an attempt, wherever there is a cap at all."""
MAX_DESCRIPTORS = 1_000_000
"""Open files of all its processes: more take too long to look at."""
_DEEPEST = 64
_STEP = 256
_HIDES_FOR = 3
_DELETED = " (deleted)"
_INTO = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)
_VANISHED = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
_DENIED = frozenset({errno.EACCES, errno.EPERM})


class Disk:
    """Of one attempt."""

    def __init__(self, directories: list[str], most: int, *, confined: bool) -> None:
        """``most``: bytes. ``confined``: it cannot write elsewhere, so a process that does not let
        its open files be seen would be a way round the cap."""
        self._directories = directories
        self._most = most
        self._confined = confined
        self._size = self._count = self._looked = 0
        self._devices: set[int] = set()
        self._hidden: dict[tuple[int, int], int] = {}

    def round(self, pids: Callable[[], list[int]]) -> Iterator[bool]:
        """Measures all once. Yields every so often, so that whoever measures can do other things;
        True: it is too much, or cannot be measured.

        ``pids``: asked for the attempt's processes.
        """
        self._size = self._count = self._looked = 0
        self._devices.clear()
        for directory in self._directories:
            yield from self._below(directory)
        yield from self._nameless(pids())

    # --- what has a name

    def _below(self, directory: str) -> Iterator[bool]:
        open_now: list[tuple[int, Iterator[os.DirEntry[str]]]] = []
        try:
            yield from self._enter(directory, None, open_now)
            while open_now:
                fd, entries = open_now[-1]
                entry = next(entries, None)
                if entry is None:
                    open_now.pop()
                    os.close(fd)
                elif entry.is_dir(follow_symlinks=False):
                    yield from self._add(0)
                    yield from self._enter(entry.name, fd, open_now)
                else:
                    yield from self._add(_size(entry))
        finally:
            for fd, _ in open_now:
                os.close(fd)

    def _enter(
        self, name: str, within: int | None, open_now: list[tuple[int, Iterator[os.DirEntry[str]]]]
    ) -> Iterator[bool]:
        """Open the directory. What cannot be measured (no permission, too deep) cannot be collected
        either, and would be a way round the cap; what has become something else is counted as
        that, or not at all."""
        if len(open_now) == _DEEPEST:
            yield True
            return
        fd = -1
        try:
            fd = os.open(name, _INTO, dir_fd=within)
            open_now.append((fd, os.scandir(fd)))
            if within is None:
                self._devices.add(os.fstat(fd).st_dev)
        except OSError as error:
            if fd >= 0:
                os.close(fd)
            if error.errno not in _VANISHED:
                yield True

    def _add(self, size: int) -> Iterator[bool]:
        self._size += size
        self._count += 1
        if self._size > self._most or self._count > MAX_FILES:
            yield True
        if self._count % _STEP == 0:
            yield False

    # --- what has none

    def _nameless(self, pids: list[int]) -> Iterator[bool]:
        """A file that was unlinked is there until nobody has it open."""
        seen: set[tuple[int, int]] = set()
        hidden: dict[tuple[int, int], int] = {}
        for pid in pids:
            try:
                for task in _with_own_files(pid):
                    for found in _open_files(f"/proc/{pid}/task/{task}/fd"):
                        self._looked += 1
                        if self._looked > MAX_DESCRIPTORS:
                            yield True
                        if self._looked % _STEP == 0:
                            yield False
                        if found is None or not self._counts(found):
                            continue
                        inode = (found.st_dev, found.st_ino)
                        if inode not in seen:
                            seen.add(inode)
                            yield from self._add(taken(found))
            except OSError as error:
                if error.errno not in _DENIED:
                    continue  # it has ended
                entry = procfs.process(pid)
                if entry is not None and not entry.dead:
                    key = (pid, entry.start)
                    hidden[key] = self._hidden.get(key, 0) + 1
        # a program that has just begun may be closed to all for a moment
        self._hidden = hidden
        if self._confined and max(hidden.values(), default=0) >= _HIDES_FOR:
            yield True

    def _counts(self, found: os.stat_result) -> bool:
        """It has no name left, and lies where the attempt's directories do."""
        return found.st_nlink == 0 and found.st_dev in self._devices and stat.S_ISREG(found.st_mode)


def taken(found: os.stat_result) -> int:
    """What a file takes, in bytes: what it claims, or what it has had reserved beyond its end.

    Some file systems reserve as much again for a file that grows: so much is not held against it.
    """
    reserved = found.st_blocks * 512
    return reserved if reserved > 2 * found.st_size else found.st_size


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return taken(entry.stat(follow_symlinks=False))
    except OSError:
        return 0


def _with_own_files(pid: int) -> Iterator[str]:
    """The threads of ``pid``, of those that share their open files one. The first may have ended
    while others go on. Raises OSError."""
    last = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        if not last or not prctl.share_files(last, int(task)):
            yield task
            last = int(task)


def _open_files(directory: str) -> Iterator[os.stat_result | None]:
    """One for each descriptor: None, unless its file may have no name. Raises OSError: they cannot
    be seen.

    What has a name is not asked for more: its file system may be one that does not answer.
    """
    for name in os.listdir(directory):
        path = f"{directory}/{name}"
        found = None
        try:
            if _may_be_nameless(path):
                found = os.stat(path)
        except OSError as error:
            if error.errno in _DENIED:
                raise
        yield found


def _may_be_nameless(path: str) -> bool:
    try:
        return os.readlink(path).endswith(_DELETED)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return True
        raise
