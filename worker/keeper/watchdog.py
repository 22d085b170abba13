"""Measures what an attempt uses against its limits. A limit of 0 is none."""

from __future__ import annotations

import errno
import math
import os

from worker.keeper import procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MIB = 1 << 20
_NEAR = 0.8
MAX_FILES = 100_000
"""Files and directories in an attempt's output and checkpoints, wherever there is a cap at all."""
_STEP = 256
_LOOK_EVERY = 0.5
_LOOK_SOON = 0.1
_MEASURE_EVERY = 2.0
_MEASURE_SHARE = 20
_VANISHED = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


class Watchdog:
    """Says which limit is broken: a value of `worker.plan.StopCause`, or None."""

    def __init__(
        self, *, memory_mb: int, pids: int, output_mb: int, directories: list[str]
    ) -> None:
        self._memory = memory_mb * _MIB
        self._pids = pids
        self._output = output_mb * _MIB
        self._directories = directories
        self._walk: Iterator[str | None] | None = None
        self.near = False
        """Close enough to a limit that the next look should come soon."""

    @property
    def watches_processes(self) -> bool:
        return bool(self._memory or self._pids)

    @property
    def watches_output(self) -> bool:
        return bool(self._output and self._directories)

    def processes(self, members: list[procfs.Process]) -> str | None:
        threads = sum(entry.threads for entry in members)
        rss = sum(entry.rss_bytes for entry in members)
        self.near = bool(
            (self._pids and threads > self._pids / 2)
            or (self._memory and rss > self._memory * _NEAR)
        )
        if self._pids and threads > self._pids:
            return "pids"
        if self._memory and rss > self._memory and self._proportional(members) > self._memory:
            return "memory"
        return None

    @staticmethod
    def _proportional(members: list[procfs.Process]) -> int:
        # RSS counts a page once for each process that maps it: loaders forked from one parent
        # would seem to use many times what they do. Only near the limit is the dear truth read.
        total = 0
        for entry in members:
            exact = procfs.proportional_bytes(entry.pid)
            total += entry.rss_bytes if exact is None else exact
        return total

    def output(self) -> tuple[bool, str | None]:
        """One step of measuring the directories: whether the round is over, what it found."""
        if self._walk is None:
            self._walk = self._measure()
        for verdict in self._walk:
            return verdict is not None, verdict
        self._walk = None
        return True, None

    def _measure(self) -> Iterator[str | None]:
        """Yields None every so often, so that the keeper's loop can go on, or the verdict."""
        size = count = 0
        waiting = list(self._directories)
        while waiting:
            directory = waiting.pop()
            try:
                with os.scandir(directory) as entries:
                    for entry in entries:
                        count += 1
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(entry.path)
                        else:
                            size += _size(entry)
                        if size > self._output or count > MAX_FILES:
                            yield "output"
                        if count % _STEP == 0:
                            yield None
            except OSError as error:
                # What cannot be measured (no permission, a path too long) cannot be collected
                # either, and would be a way round the cap.
                if error.errno not in _VANISHED:
                    yield "output"


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except OSError:
        return 0


class Rounds:
    """When the watchdog looks, in seconds of ``time.monotonic()``; each look is a verdict."""

    def __init__(self, watchdog: Watchdog, now: float) -> None:
        self._watchdog = watchdog
        self.look_at = now + _LOOK_EVERY
        """When the processes are looked at next."""
        self._measure_at = now + _MEASURE_EVERY
        self._measure_began = math.inf
        self._last = False

    @property
    def measuring(self) -> bool:
        """In the middle of measuring the output: go on at once."""
        return self._measure_began != math.inf

    def next_due(self) -> float:
        due = [math.inf]
        if self._watchdog.watches_processes:
            due.append(self.look_at)
        if self._watchdog.watches_output:
            due.append(self._measure_at)
        return min(due)

    def look(self, now: float, members: Callable[[], list[procfs.Process]]) -> str | None:
        """The look at the processes that is due."""
        watched = self._watchdog.watches_processes
        verdict = self._watchdog.processes(members()) if watched else None
        self.look_at = now + (_LOOK_SOON if self._watchdog.near else _LOOK_EVERY)
        return verdict

    def measure(self, now: float) -> str | None:
        """One step of measuring the output, if one is due."""
        if not self._watchdog.watches_output or (not self.measuring and now < self._measure_at):
            return None
        self._measure_began = min(self._measure_began, now)
        over, verdict = self._watchdog.output()
        if over:
            # never more than a small share of the time, however many files there are
            spent = now - self._measure_began
            self._measure_began = math.inf
            self._measure_at = now + max(_MEASURE_EVERY, _MEASURE_SHARE * spent)
        return verdict

    def last(self, now: float) -> bool:
        """Nothing writes any more: measure all once more. True when that was done."""
        if not self._watchdog.watches_output:
            return True
        if not self._last and not self.measuring:
            self._last = True
            self._measure_at = now
            return False
        return self._last and not self.measuring and now < self._measure_at
