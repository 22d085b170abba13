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
    from collections.abc import Callable, Generator, Iterator

MAX_FILES = 100_000
"""Files and directories of an attempt, wherever there is a cap at all."""
MAX_DESCRIPTORS = 1_000_000
"""Processes, threads and open files of an attempt: more take too long to look at."""
_DEEPEST = 64
_STEP = 256
_HIDES_FOR = 3
"""Rounds in which one process may be closed to all."""
_UNSURE_FOR = 6
"""Rounds, one after the other, in which something may be closed to all, or lie on storage that has
a fault, be it another each time."""
_DELETED = " (deleted)"
_EMPTY = 4096
"""What a directory takes that never had much in it."""
_PLACES = ("cwd", "root")
"""Directories that a thread is in, be they removed or not."""
_INTO = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)
_VANISHED = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESRCH})
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
        self._faulty = False
        self._rounds_hidden = self._rounds_faulty = 0

    def round(self, pids: Callable[[], list[int]]) -> Iterator[bool]:
        """Measures all once. Yields every so often, so that whoever measures can do other things;
        True: it is too much, or cannot be measured.

        ``pids``: asked for the attempt's processes.
        """
        self._size = self._count = self._looked = 0
        self._devices.clear()
        self._faulty = False
        for directory in self._directories:
            yield from self._below(directory)
        self._rounds_faulty = self._rounds_faulty + 1 if self._faulty else 0
        if self._rounds_faulty >= _UNSURE_FOR:
            yield True
        yield from self._nameless(pids())

    # --- what has a name

    def _below(self, directory: str) -> Iterator[bool]:
        open_now: list[tuple[int, Iterator[os.DirEntry[str]]]] = []
        try:
            yield from self._enter(directory, None, open_now)
            while open_now:
                fd, entries = open_now[-1]
                entry, leads_on, size, wrong = None, False, 0, None
                try:
                    entry = next(entries, None)
                    if entry is not None:
                        leads_on = entry.is_dir(follow_symlinks=False)
                        size = taken(entry.stat(follow_symlinks=False))
                except OSError as error:
                    wrong = error
                if wrong is not None:
                    yield from self._unmeasured(wrong)
                if entry is None:
                    open_now.pop()
                    os.close(fd)
                    continue
                yield from self._add(size)
                if leads_on:
                    yield from self._enter(entry.name, fd, open_now)
        finally:
            for fd, _ in open_now:
                os.close(fd)

    def _enter(
        self, name: str, within: int | None, open_now: list[tuple[int, Iterator[os.DirEntry[str]]]]
    ) -> Iterator[bool]:
        """Open the directory. What has become something else is counted as that, or not at all."""
        if len(open_now) == _DEEPEST:
            yield True
            return
        fd, grown, wrong = -1, 0, None
        try:
            fd = os.open(name, _INTO, dir_fd=within)
            open_now.append((fd, os.scandir(fd)))
            if within is None:
                found = os.fstat(fd)
                self._devices.add(found.st_dev)
                grown = max(0, taken(found) - _EMPTY)  # that it is there is none of the job's doing
        except OSError as error:
            if fd >= 0:
                os.close(fd)
            wrong = error
        self._size += grown
        if self._size > self._most:
            yield True
        if wrong is not None:
            yield from self._unmeasured(wrong)

    def _unmeasured(self, error: OSError) -> Iterator[bool]:
        """What a job has closed to us cannot be collected either, and would be a way round the cap.
        A fault of the storage (EIO, ESTALE) is none of the job's and may pass: it ends the job once
        nothing can be measured for several rounds, and never the keeper."""
        if error.errno in _DENIED:
            yield True
        elif error.errno not in _VANISHED:
            self._faulty = True

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
            closed = yield from self._of_process(pid, seen)
            entry = procfs.process(pid) if closed else None
            if entry is not None:
                key = (pid, entry.start)
                hidden[key] = self._hidden.get(key, 0) + 1
        # a program that has just begun may be closed to all for a moment
        self._hidden = hidden
        self._rounds_hidden = self._rounds_hidden + 1 if hidden else 0
        if self._confined and (
            max(hidden.values(), default=0) >= _HIDES_FOR or self._rounds_hidden >= _UNSURE_FOR
        ):
            yield True

    def _of_process(self, pid: int, seen: set[tuple[int, int]]) -> Generator[bool, None, bool]:
        """Adds what its threads have open, of those that share their open files one's. Returns
        whether any of it cannot be seen. The first thread may have ended while others go on."""
        yield from self._look()
        tasks: list[str] = []
        closed, last = False, 0
        try:
            tasks = os.listdir(f"/proc/{pid}/task")
        except OSError as error:
            closed = error.errno in _DENIED
        for task in tasks:
            yield from self._look()
            shares = bool(last and prctl.share_files(last, int(task)))
            try:
                for found in _held(f"/proc/{pid}/task/{task}", files=not shares):
                    yield from self._look()
                    if found is None or not self._counts(found):
                        continue
                    inode = (found.st_dev, found.st_ino)
                    if inode not in seen:
                        seen.add(inode)
                        yield from self._add(taken(found))
                last = last if shares else int(task)
            except OSError as error:
                if error.errno in _DENIED and not _over(pid, task):
                    closed = True
        return closed

    def _look(self) -> Iterator[bool]:
        self._looked += 1
        if self._looked > MAX_DESCRIPTORS:
            yield True
        if self._looked % _STEP == 0:
            yield False

    def _counts(self, found: os.stat_result) -> bool:
        """It has no name left, and lies where the attempt's directories do."""
        kind = stat.S_IFMT(found.st_mode)
        is_kept = kind in (stat.S_IFREG, stat.S_IFDIR)
        return found.st_nlink == 0 and found.st_dev in self._devices and is_kept


def taken(found: os.stat_result) -> int:
    """What a file takes, in bytes: what it claims, or what it has had reserved beyond its end.

    Some file systems reserve as much again for a file that grows: so much is not held against it.
    A directory takes what it has grown to: some never give that back, however empty it is again.
    """
    reserved = found.st_blocks * 512
    if stat.S_ISDIR(found.st_mode):
        return reserved
    return reserved if reserved > 2 * found.st_size else found.st_size


def _over(pid: int, task: str) -> bool:
    """The thread has ended, or is about to. Its open files are root's from then on, also where
    other threads of the process go on."""
    line = procfs.read_bytes(f"/proc/{pid}/task/{task}/stat")
    entry = procfs.Process(pid, line) if line else None
    return entry is None or entry.dead or entry.ends


def _held(task: str, *, files: bool) -> Iterator[os.stat_result | None]:
    """One for each directory that a thread is in, and, with ``files``, for each descriptor: None,
    unless it may have no name. Raises OSError: they cannot be seen.

    What has a name is not asked for more: its file system may be one that does not answer.
    """
    names = [f"fd/{one}" for one in os.listdir(f"{task}/fd")] if files else []
    for name in (*_PLACES, *names):
        path = f"{task}/{name}"
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
