"""Measures what an attempt uses against its limits. A limit of 0 is none."""

from __future__ import annotations

import math

from worker.keeper import procfs
from worker.keeper.disk import Disk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MIB = 1 << 20
_NEAR = 0.8
_LOOK_EVERY = 0.5
_LOOK_SOON = 0.1
_MEASURE_EVERY = 2.0
_MEASURE_AT_LATEST = 10.0
"""After the last time, however long that took: a job may make it long."""
_MEASURE_SHARE = 20


class Watchdog:
    """Says which limit is broken: a value of `worker.plan.StopCause`, or None."""

    def __init__(
        self,
        *,
        memory_mb: int,
        pids: int,
        output_mb: int,
        directories: list[str],
        confined: bool = False,
    ) -> None:
        """``confined``: see `worker.keeper.disk.Disk`."""
        self._memory = memory_mb * _MIB
        self._pids = pids
        self._disk = Disk(directories, output_mb * _MIB, confined=confined)
        self._round: Iterator[bool] | None = None
        self.watches_output = bool(output_mb and directories)
        self.near = False
        """Close enough to a limit that the next look should come soon."""

    @property
    def watches_processes(self) -> bool:
        return bool(self._memory or self._pids)

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

    def output(self, pids: Callable[[], list[int]]) -> tuple[bool, str | None]:
        """One step of measuring what is written: whether the round is over, what it found.

        ``pids``: asked for all processes of the attempt.
        """
        if self._round is None:
            self._round = self._disk.round(pids)
        for too_much in self._round:
            return too_much, "output" if too_much else None
        self._round = None
        return True, None


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

    def measure(self, now: float, pids: Callable[[], list[int]]) -> str | None:
        """One step of measuring the output, if one is due."""
        if not self._watchdog.watches_output or (not self.measuring and now < self._measure_at):
            return None
        self._measure_began = min(self._measure_began, now)
        over, verdict = self._watchdog.output(pids)
        if over:
            # a small share of the time, unless there is so much to look at that the next time
            # would come too late
            spent = now - self._measure_began
            self._measure_began = math.inf
            pause = max(_MEASURE_EVERY, _MEASURE_SHARE * spent)
            self._measure_at = now + min(_MEASURE_AT_LATEST, pause)
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
