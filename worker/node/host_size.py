"""How large the host is, within the cgroup that this process runs in."""

from __future__ import annotations

import os
from pathlib import Path

from worker.limits import HostSize

_MIB = 1 << 20
_CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def host_size() -> HostSize:
    """Memory and CPUs that jobs can have here; 0 for what cannot be known."""
    return HostSize(memory_mb=_memory() // _MIB, cpu_cores=float(_cores()))


def _memory() -> int:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0
    for path in _CGROUP_LIMITS:
        try:
            text = path.read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            total = min(total, int(text))
    return total


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 0
