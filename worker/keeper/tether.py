"""What ties a native job to the life of its keeper.

The parent death signal would have to be asked for by the new process itself, before its program
runs; it holds for one process, and not for those that it starts. Here it is the last writer of a
pipe whose end raises the signal: the kernel sends SIGKILL to the owner of each of the pipe's read
ends (fcntl(2): F_SETOWN, F_SETSIG, O_ASYNC), a process group, once no writer is left. The keeper
has the only write end, and the job a read end, which keeps it ready: as long as anything of the
group has that open. The supervisor of a job that lasts holds one more, for a group that has closed
its own everywhere (as closefrom(3) does). A process that leaves the group, or such a group without
a supervisor, is found by its marker or its lease: see `settle`. In that this is weaker than the
parent death signal.
"""

from __future__ import annotations

import fcntl
import os
import signal

from worker.keeper import procfs

_KILL = int(signal.SIGKILL)


def tie_too(keeper: int, number: int, group: int) -> int:
    """An end for this process to hold, by which ``group``, of a child of ``keeper``, dies with
    that, whatever it has closed itself; the caller's to close, which unties nobody. -1: there is
    none.

    ``number``: see `Tether.number`.
    """
    leader = procfs.process(group)
    end = -1
    try:
        end = _opened(f"/proc/{keeper}/fd/{number}")
        if leader is not None and leader.parent == keeper:
            fcntl.fcntl(end, fcntl.F_SETOWN, -group)
            now = procfs.process(group)
            # the same one before and after, so it is its group that owns the end
            if now is not None and (now.start, now.parent) == (leader.start, keeper):
                return end
    except OSError:
        pass
    if end >= 0:
        os.close(end)
    return -1


def _opened(path: str) -> int:
    """One more read end of a pipe, whose owner is killed once the pipe has no writer. Raises
    OSError."""
    # of its own, not a copy: each has one owner
    end = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.fcntl(end, fcntl.F_SETSIG, _KILL)
        fcntl.fcntl(end, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)
    except OSError:
        os.close(end)
        raise
    return end


class Tether:
    """Of one attempt, whose process groups die with this process."""

    def __init__(self) -> None:
        """Raises OSError."""
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def end(self) -> int:
        """A descriptor for a process to inherit, by which it is held once tied; the caller's to
        close. Raises OSError."""
        end = _opened(f"/proc/self/fd/{self._read}")
        os.set_inheritable(end, True)
        return end

    def tie(self, end: int, group: int) -> None:
        """Process group ``group``, which has ``end``, dies with this process. Raises OSError."""
        fcntl.fcntl(end, fcntl.F_SETOWN, -group)

    @property
    def number(self) -> int:
        """The descriptor in this process that `tie_too` begins with."""
        return self._read

    def untie(self) -> None:
        """The attempt is over, and every process of it. Safe to call twice."""
        if self._write >= 0:
            os.close(self._write)
            os.close(self._read)
            self._read = self._write = -1
