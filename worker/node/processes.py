"""Processes that this agent may not have started: found, watched and ended without a mistake.

A pid alone names nothing for long. Its start time, and the boot it was in, make it a name.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from worker.keeper import procfs

_AGAIN = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessName:
    """One process of this boot, for ever."""

    pid: int
    start: int
    """Clock ticks since boot."""


class WatchedProcess:
    """A living process, held by pidfd: what is sent to it never reaches another."""

    def __init__(
        self, name: ProcessName, fd: int, status: Callable[[], int | None] = lambda: None
    ) -> None:
        self.name = name
        self._fd = fd
        self._status = status

    @classmethod
    def of_pid(cls, pid: int, status: Callable[[], int | None]) -> WatchedProcess:
        """Watch a process that waits for us to go on, so that the pid is its own.

        ``status``: asked for its exit code (minus the signal) once it has ended. Raises OSError: it
        has been killed.
        """
        fd = os.pidfd_open(pid)
        entry = procfs.process(pid)
        return cls(ProcessName(pid=pid, start=entry.start if entry else 0), fd, status)

    @classmethod
    def find(cls, name: ProcessName) -> WatchedProcess | None:
        """Watch somebody else's child; None if it is gone."""
        try:
            fd = os.pidfd_open(name.pid)
        except OSError:
            return None
        entry = procfs.process(name.pid)
        if entry is None or entry.start != name.start or entry.dead:
            os.close(fd)
            return None
        return cls(name, fd)

    def fileno(self) -> int:
        """Readable once the process has ended."""
        return self._fd

    @property
    def ended(self) -> bool:
        return bool(select.select([self._fd], [], [], 0)[0])

    def send(self, number: int) -> None:
        """Send a signal; nothing if it has ended."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._fd, number)

    def collect(self) -> int | None:
        """After its end: the exit code (minus the signal); None if that is another's to know."""
        os.close(self._fd)
        return self._status()

    def abandon(self) -> None:
        """Stop watching it; it lives on."""
        os.close(self._fd)


def kill_group(leader: ProcessName, within: float = 2.0) -> list[int]:
    """Kill what is left of the process group of ``leader``, which has ended. The pids killed."""
    killed: list[int] = []
    until = time.monotonic() + within
    while True:
        now = procfs.process(leader.pid)
        if now is not None and now.start != leader.start:
            return killed  # another process has the pid, so the group is empty or another's
        members = [entry for entry in map(procfs.process, procfs.pids()) if entry is not None]
        left = [
            entry
            for entry in members
            if entry.group == leader.pid and entry.pid != leader.pid and not entry.dead
        ]
        for entry in left:
            if procfs.send(entry, signal.SIGKILL) and entry.pid not in killed:
                killed.append(entry.pid)
        if not left or time.monotonic() >= until:
            return killed
        time.sleep(_AGAIN)


def slot_leaders(state_dir: str, slot: str, lock: Path) -> list[ProcessName]:
    """Living process-group leaders that are workers of this slot: by their name where a nursery
    forked them, else by their environment, and by ``lock``, the slot's, which they hold.

    Any job can have such a name and environment; one in a container cannot have the lock.
    """
    try:
        there = lock.stat()
    except OSError:
        return []
    found, here = [], procfs.namespace(os.getpid())
    for pid in procfs.pids():
        entry = procfs.process(pid)
        if entry is None or entry.dead or entry.group != pid or procfs.namespace(pid) != here:
            continue
        environ = (procfs.read_bytes(f"/proc/{pid}/environ") or b"").split(b"\0")
        if f"CYXWIZ_STATE_DIR={state_dir}".encode() not in environ:
            continue
        name = (procfs.read_bytes(f"/proc/{pid}/comm") or b"").strip()
        if name != slot.encode()[:15] and f"CYXWIZ_SLOT={slot}".encode() not in environ:
            continue
        if procfs.locks(pid, {(there.st_dev, there.st_ino)}):
            found.append(ProcessName(pid=pid, start=entry.start))
    return found
