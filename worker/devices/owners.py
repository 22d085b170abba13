"""Which process belongs to which attempt: what a driver lists as users of a device are pids."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from worker.keeper import lock, procfs


def processes_of(attempts: Path, pids: Iterable[int]) -> Mapping[str, frozenset[int]]:
    """By attempt (the name of its directory in ``attempts``): those of ``pids`` that are its.

    They descend from its keeper, or of a container from its first process.
    """
    wanted = set(pids)
    if not wanted or not attempts.is_dir():
        return {}
    roots: dict[int, str] = {}
    for directory in attempts.iterdir():
        record = lock.read(directory)
        if record is not None:
            roots[record.pid] = directory.name
            if record.job:
                roots[record.job] = directory.name
    found: dict[str, set[int]] = defaultdict(set)
    for pid in wanted:
        owner = _owner(pid, roots)
        if owner is not None:
            found[owner].add(pid)
    return {name: frozenset(members) for name, members in found.items()}


def _owner(pid: int, roots: Mapping[int, str]) -> str | None:
    seen: set[int] = set()
    while pid > 0 and pid not in seen:
        if pid in roots:
            return roots[pid]
        seen.add(pid)
        entry = procfs.process(pid)
        pid = entry.parent if entry is not None else 0
    return None
