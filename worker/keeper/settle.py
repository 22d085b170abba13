"""Clears up after a dead keeper, before its devices are granted again.

The job's process group died with its keeper, if anything in it still had what ties it to that (see
`worker.keeper.tether`); a daemon in a group of its own did not, nor a job that has closed all that
it was given. Such survivors are known by the marker in their environment, which an exec without it
sheds, or by the lease that they inherited, which closing it sheds: they are looked for by both, and
what has shed both is found by nobody. A container is known by the note in the attempt's directory.

Anybody can have any marker, a job in a container too, which cannot have a lease. So what has
nothing but the marker, in another namespace of processes, is killed and not waited for.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from tasks.errors import PlatformError
from worker.devices.leases import held
from worker.keeper import containers, lock, procfs, protocol, secret_files

_AGAIN = 0.01
_STRANGE_PASSES = 5
"""What only says that it is of the attempt, in another namespace, is seen dead if it was there in
these; of what comes later, one after the other, no end would be seen."""


class Settlement(StrEnum):
    """What came of it."""

    ALIVE = "alive"
    """A keeper looks after the attempt, or somebody settles it: nothing was touched."""
    SETTLED = "settled"
    """No process of it is left, and its state is deleted."""
    BLOCKED = "blocked"
    """Something holds a lease and could not be ended: do not grant it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settled:
    """What `settle` found and did."""

    directory: Path
    outcome: Settlement
    killed: tuple[int, ...] = ()
    """Process ids that were sent SIGKILL."""
    held: tuple[Path, ...] = ()
    """Leases that are still held."""


def settle(
    directory: Path,
    leases: Iterable[Path] = (),
    timeout: float = 10.0,
    *,
    all_dead: bool = False,
) -> Settled:
    """Kill what a dead keeper left of the attempt in ``directory``, and delete its state.

    ``leases`` are lease files of the attempt beside those that its keeper recorded. Takes at most
    ``timeout`` seconds. Safe to call again, also where there is nothing. ``all_dead``: the keeper
    has said that no descendant was left; then every process of the host need not be looked at,
    unless a lease is held all the same.

    Raises:
        PlatformError: this host has no /proc, so nobody can tell.
    """
    if not _has_proc():
        raise PlatformError(f"{sys.platform} has no /proc: survivors of a keeper cannot be found")
    try:
        guard = lock.take(directory, patience=0.1)
    except FileNotFoundError:
        return Settled(directory=directory, outcome=Settlement.SETTLED)
    if guard is None:
        return Settled(directory=directory, outcome=Settlement.ALIVE)
    try:
        record = lock.read(directory)
        paths = {*leases, *(record.leases if record else ())}
        until = time.monotonic() + timeout
        there = os.listdir(directory)  # noqa: PTH208 - for each job
        over = containers.NOTE not in there or containers.end(directory, until)
        has_secrets = secret_files.NOTE in there
        if has_secrets:
            with contextlib.suppress(OSError):
                secret_files.remove(directory)  # whatever may still run: it gets them no more
        killed: list[int] = []
        blocking: tuple[Path, ...] = ()
        if not all_dead or any(held(path) for path in paths):
            marker = str(directory.resolve())
            hunt = _Hunt(marker=marker, leases=paths, since=record.start if record else None)
            over = over and hunt.run(until)
            blocking = hunt.blocked()
            while over and blocking and time.monotonic() < until:
                # the first thread of a process that dies is gone before the last lets go
                time.sleep(_AGAIN)
                over = hunt.run(until)
                blocking = hunt.blocked()
            killed = hunt.killed
        if over and not blocking:
            if has_secrets:
                secret_files.remove(directory)
            if record is not None:
                remove_tree(record.scratch)
            _remove_flat(directory, there)
            outcome = Settlement.SETTLED
        else:
            outcome = Settlement.BLOCKED
        return Settled(directory=directory, outcome=outcome, killed=tuple(killed), held=blocking)
    finally:
        os.close(guard)


def end_keeper(directory: Path, within: float = 2.0) -> int | None:
    """Kill the keeper of ``directory``, which does not answer; its pid, or None if there is none.

    Its job dies with it, as a rule. What is left is for `settle`.
    """
    record = lock.read(directory)
    entry = None if record is None else procfs.process(record.pid)
    if record is None or entry is None or entry.start != record.start:
        return None
    if not procfs.send(entry, signal.SIGKILL):
        return None
    until = time.monotonic() + within
    while lock.alive(directory) and time.monotonic() < until:
        time.sleep(_AGAIN)
    return record.pid


class _Hunt:
    """Finds and kills the survivors of one attempt."""

    def __init__(self, *, marker: str, leases: set[Path], since: int | None) -> None:
        self._marker = f"{protocol.MARKER}={marker}".encode()
        self._paths = leases
        self._leases = {one for one in map(_identity, leases) if one is not None}
        # What ran before the keeper did is no descendant of it: a slot worker that has not yet
        # closed its own copy of the grant is not to be killed for it.
        self._since = since
        self.killed: list[int] = []

    def run(self, until: float) -> bool:
        """Kill until a pass finds nobody. False: somebody is left at ``until``."""
        passes, early = 0, set[tuple[int, int]]()
        while survivors := list(self._survivors()):
            for entry, _ in survivors:
                if procfs.send(entry, signal.SIGKILL) and entry.pid not in self.killed:
                    self.killed.append(entry.pid)
            passes += 1
            names = {(entry.pid, entry.start) for entry, _ in survivors}
            if passes <= _STRANGE_PASSES:
                early |= names
            any_ours = any(ours for _, ours in survivors)
            if not any_ours and not names & early:
                return True
            if time.monotonic() >= until:
                return not any_ours
            time.sleep(_AGAIN)
        return True

    def blocked(self) -> tuple[Path, ...]:
        """The leases that are not to be granted."""
        return tuple(sorted(path for path in self._paths if self.blocks(path)))

    def blocks(self, path: Path) -> bool:
        """Whether a lease is held by something that can only be a survivor out of reach.

        A slot worker of before the keeper may hold it rightly: it has not let go of its grant yet.
        """
        if not held(path):
            return False
        identity = _identity(path)
        files = set() if identity is None else {identity}
        return not any(
            self._elder(entry) and procfs.locks(pid, files)
            for pid in procfs.pids()
            if (entry := procfs.process(pid)) is not None
        )

    def _survivors(self) -> Iterable[tuple[procfs.Process, bool]]:
        """Each, and whether it is one without doubt."""
        own, here = os.getpid(), procfs.namespace(os.getpid())
        for pid in procfs.pids():
            entry = None if pid == own else procfs.process(pid)
            if entry is None or entry.dead or self._elder(entry):
                continue
            environ = procfs.read_bytes(f"/proc/{pid}/environ") or b""
            marked = self._marker in environ.split(b"\0")
            sure = marked and procfs.namespace(pid) == here
            if sure or self._holds(pid):
                yield entry, True
            elif marked:
                yield entry, False

    def _holds(self, pid: int) -> bool:
        return self._since is not None and procfs.locks(pid, self._leases)

    def _elder(self, entry: procfs.Process) -> bool:
        return self._since is not None and entry.start < self._since


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        there = path.stat()
    except OSError:
        return None
    return there.st_dev, there.st_ino


@cache
def _has_proc() -> bool:
    return Path("/proc/self/stat").exists()


def _remove_flat(directory: Path, names: Iterable[str]) -> None:
    """Delete a directory of files; no walk is needed unless there is more in it."""
    try:
        for name in names:
            os.unlink(f"{directory}/{name}")  # noqa: PTH108 - for each job
    except OSError:
        pass
    remove_tree(directory)


def remove_tree(path: Path) -> None:
    """Delete a directory with all that is in it, also what its owner made unreadable."""
    try:
        os.rmdir(path)  # noqa: PTH106 - a short job's is empty: no walk is needed
    except OSError:
        pass
    else:
        return

    def open_up(function: Callable[..., Any], name: str, _: object) -> None:
        parent = Path(name).parent
        with contextlib.suppress(OSError):
            parent.chmod(stat.S_IRWXU)
        with contextlib.suppress(OSError):
            if stat.S_ISDIR(Path(name).lstat().st_mode):
                Path(name).chmod(stat.S_IRWXU)
                shutil.rmtree(name, ignore_errors=True)
            else:
                function(name)

    shutil.rmtree(path, onerror=open_up)
