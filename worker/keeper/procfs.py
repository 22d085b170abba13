"""Processes as /proc shows them. A process that ends while it is read is no error: it is absent."""

# No pathlib here: its import costs each slot a megabyte.
# ruff: noqa: PTH110, PTH115, PTH116, PTH208

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_EXITING = 0x4
"""PF_EXITING, of the kernel's flags of a thread."""
_PASSES = 20
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


class Process:
    """One line of /proc/PID/stat."""

    __slots__ = ("ends", "group", "parent", "pid", "rss_bytes", "start", "state", "threads")

    def __init__(self, pid: int, line: bytes) -> None:
        # the name, between parentheses, may hold spaces and parentheses itself
        fields = line[line.rindex(b")") + 2 :].split()
        self.pid = pid
        self.state = fields[0].decode()
        self.parent = int(fields[1])
        self.group = int(fields[2])
        self.ends = bool(int(fields[6]) & _EXITING)
        """It gives back what it has, and runs nothing more of its program."""
        self.threads = int(fields[17])
        self.start = int(fields[19])
        """Clock ticks since boot: with the pid, names a process for ever."""
        self.rss_bytes = int(fields[21]) * _PAGE

    @property
    def dead(self) -> bool:
        return self.state in "ZX"

    @property
    def stopped(self) -> bool:
        return self.state in "Tt"


def read_bytes(path: str) -> bytes | None:
    """The content of a small file under /proc, or None if it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        parts = []
        while part := os.read(fd, 1 << 16):
            parts.append(part)
        return b"".join(parts)
    except OSError:
        return None
    finally:
        os.close(fd)


def process(pid: int) -> Process | None:
    line = read_bytes(f"/proc/{pid}/stat")
    return Process(pid, line) if line else None


def pids() -> Iterator[int]:
    """Every process that this process can see."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            yield int(name)


def children(pid: int) -> list[int] | None:
    """The children of every thread of ``pid``, or None where the kernel does not tell."""
    found: list[int] = []
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for task in tasks:
        line = read_bytes(f"/proc/{pid}/task/{task}/children")
        if line is None:
            if os.path.exists(f"/proc/{pid}/task/{task}/stat"):
                return None
            continue
        found.extend(map(int, line.split()))
    return found


def below(root: int) -> list[int]:
    """The processes below ``root``, parents first; also those whose first thread is dead.

    One pass over a moving target: what forks or is orphaned meanwhile may be missing, so whoever
    must reach all of them repeats it until nothing is left to do.
    """
    found: list[int] = []
    seen = {root}
    waiting = [root]
    while waiting:
        near = children(waiting.pop())
        if near is None:
            return _below_by_parent(root)
        for pid in near:
            if pid not in seen:
                seen.add(pid)
                waiting.append(pid)
                found.append(pid)
    return found


def descendants(root: int) -> list[Process]:
    """Living processes `below` ``root``."""
    found = map(process, below(root))
    return [entry for entry in found if entry is not None and not entry.dead]


def _below_by_parent(root: int) -> list[int]:
    by_parent: dict[int, list[int]] = {}
    for pid in pids():
        entry = process(pid)
        if entry is not None:
            by_parent.setdefault(entry.parent, []).append(pid)
    found: list[int] = []
    waiting = [root]
    while waiting:
        near = by_parent.get(waiting.pop(), [])
        found.extend(near)
        waiting.extend(near)
    return found


def namespace(pid: int) -> str:
    """The namespace of processes that it is in; '' where it is dead, or closed to this user."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""


def locks(pid: int, files: set[tuple[int, int]]) -> bool:
    """Whether it has one of ``files`` (device, inode) open with its flock(2): not merely to look at
    it."""
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return False
    for name in names:
        try:
            there = os.stat(f"/proc/{pid}/fd/{name}")
        except OSError:
            continue
        if (there.st_dev, there.st_ino) in files:
            held = read_bytes(f"/proc/{pid}/fdinfo/{name}") or b""
            if b"FLOCK" in held and b"WRITE" in held:
                return True
    return False


def kill_tree(first: int, members: Callable[[], Iterable[int]], marker: bytes) -> None:
    """SIGKILL to what descends from ``first`` and, among ``members``, to what has ``marker``, the
    beginning of a variable, in its environment: also what has left its parents. 0: of none.

    Until a pass finds nobody new: what is killed forks no more.
    """
    known: set[tuple[int, int]] = set()
    for _ in range(_PASSES):
        found = {*below(first)} if first else set()
        found |= {one for one in members() if one in found or _has(one, marker)}
        fresh = [
            entry
            for entry in map(process, found)
            if entry is not None and not entry.dead and (entry.pid, entry.start) not in known
        ]
        if not fresh:
            return
        for entry in fresh:
            known.add((entry.pid, entry.start))
            send(entry, signal.SIGKILL)


def _has(pid: int, marker: bytes) -> bool:
    environ = read_bytes(f"/proc/{pid}/environ") or b""
    return any(one.startswith(marker) for one in environ.split(b"\0"))


def send(entry: Process, number: int) -> bool:
    """Signal exactly that process, never another that got its pid since. False if it is gone."""
    try:
        handle = os.pidfd_open(entry.pid)
    except OSError:
        return False
    try:
        now = process(entry.pid)
        if now is None or now.start != entry.start:
            return False
        signal.pidfd_send_signal(handle, number)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def kill_below(root: int) -> None:
    """SIGKILL to every process below ``root`` that this user may kill, the youngest first.

    Of a container that stands still they die before they can run again: who kills its first
    process alone has it thawed (version 1 of control groups), and the others run until that
    process's death reaches them.
    """
    for entry in reversed(descendants(root)):
        send(entry, signal.SIGKILL)


def send_to(handle: int, number: int) -> bool:
    """Signal the process behind a pidfd. False: it is gone, or this user may not."""
    try:
        signal.pidfd_send_signal(handle, number)
    except OSError:
        return False
    return True


def proportional_bytes(pid: int) -> int | None:
    """Memory of a process with shared pages divided among those who share them; slow to read."""
    text = read_bytes(f"/proc/{pid}/smaps_rollup")
    if text is None:
        return None
    for line in text.splitlines():
        if line.startswith(b"Pss:"):
            return int(line.split()[1]) * 1024
    return None
