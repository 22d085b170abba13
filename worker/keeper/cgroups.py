"""The control groups of a process, as the host shows them: version 1, version 2, or both at once.

Standard library only: keepers read what their container has used here.
"""

from __future__ import annotations

from worker.keeper.procfs import read_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

V2: Final = ""
"""The name of the version 2 hierarchy, beside the names of version 1's controllers."""


def mounts() -> dict[str, tuple[str, str]]:
    """Controller to where it is mounted and which group that shows (``/`` but in containers)."""
    found: dict[str, tuple[str, str]] = {}
    for line in (read_bytes("/proc/self/mountinfo") or b"").decode(errors="replace").splitlines():
        head, _, tail = line.partition(" - ")
        kind, _, options = (*tail.split(" ", 2), "", "", "")[:3]
        fields = head.split(" ")
        if kind == "cgroup2":
            found.setdefault(V2, (fields[4], fields[3]))
        elif kind == "cgroup":
            for name in options.split(","):
                found.setdefault(name, (fields[4], fields[3]))
    return found


def groups(pid: int) -> dict[str, str]:
    """Controller to the directory of the group that ``pid`` is in; {} if it is gone."""
    found: dict[str, str] = {}
    places = mounts()
    for line in (read_bytes(f"/proc/{pid}/cgroup") or b"").decode(errors="replace").splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            if name in places:
                at, shows = places[name]
                inside = path.removeprefix(shows) if shows != "/" else path
                found[name] = f"{at}/{inside.lstrip('/')}".rstrip("/")
    return found


def number(directory: str | None, name: str) -> int | None:
    """The number in a file of a group: None if there is none, or it says ``max``."""
    content = read_bytes(f"{directory}/{name}") if directory else None
    try:
        return int(content or b"")
    except ValueError:
        return None


def words(directory: str | None, name: str) -> dict[str, int]:
    """The ``name number`` lines of a file of a group."""
    content = read_bytes(f"{directory}/{name}") if directory else None
    found: dict[str, int] = {}
    for line in (content or b"").decode(errors="replace").splitlines():
        key, _, value = line.partition(" ")
        if value.isdigit():
            found[key] = int(value)
    return found


class Meter:
    """What a group has used so far. Its files go with its last process: the last look counts."""

    __slots__ = ("_cpu", "_memory", "_v2", "cpu_seconds", "oom_kills", "peak_mb")

    def __init__(self, directories: dict[str, str]) -> None:
        self._v2 = directories.get(V2)
        self._memory = directories.get("memory")
        self._cpu = directories.get("cpuacct")
        self.cpu_seconds = 0.0
        self.peak_mb = 0.0
        self.oom_kills = 0

    def look(self) -> None:
        if self._cpu is not None:
            spent = (number(self._cpu, "cpuacct.usage") or 0) / 1e9
        else:
            spent = words(self._v2, "cpu.stat").get("usage_usec", 0) / 1e6
        if self._memory is not None:
            peak = number(self._memory, "memory.max_usage_in_bytes")
            killed = words(self._memory, "memory.oom_control")
        else:
            peak = number(self._v2, "memory.peak") or number(self._v2, "memory.current")
            killed = words(self._v2, "memory.events")
        self.cpu_seconds = max(self.cpu_seconds, spent)
        self.peak_mb = max(self.peak_mb, (peak or 0) / (1 << 20))
        self.oom_kills = max(self.oom_kills, killed.get("oom_kill", 0))
