"""What a container has used, added up from its processes: where its control groups are not its own.

What ended between two looks without being waited for is missing; a `Meter` misses nothing.
"""

from __future__ import annotations

import os

from worker.keeper import procfs

_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_MIB = 1 << 20


class Tally:
    """See `worker.keeper.cgroups.Meter`, whose figures these are."""

    __slots__ = ("_first", "cpu_seconds", "oom_kills", "peak_mb")

    def __init__(self, first: int) -> None:
        """``first``: the container's first process; 0: it has ended already."""
        self._first = first
        self.cpu_seconds = 0.0
        self.peak_mb = 0.0
        self.oom_kills = 0
        """Nobody counts them."""

    def look(self) -> None:
        if not self._first:
            return
        ticks = resident = 0
        for pid in (self._first, *(one.pid for one in procfs.descendants(self._first))):
            line = procfs.read_bytes(f"/proc/{pid}/stat")
            if not line:
                continue
            fields = line[line.rindex(b")") + 2 :].split()
            ticks += sum(map(int, fields[11:15]))  # with its children that were waited for
            resident += procfs.Process(pid, line).rss_bytes
        self.cpu_seconds = max(self.cpu_seconds, ticks / _TICKS)
        self.peak_mb = max(self.peak_mb, resident / _MIB)
