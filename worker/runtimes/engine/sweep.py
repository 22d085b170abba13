"""Containers of a node that nobody will ask for any more: which, and away with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from worker.keeper import lock
from worker.keeper.settle import remove_tree
from worker.runtimes.engine.manager import ContainerManager
from worker.runtimes.engine.settings import NODE, PROBES, STATE, EngineSettings
from worker.runtimes.native import ATTEMPTS

_ORPHAN_AFTER: Final = 60.0
"""Seconds. What was made just now may be about to be noted."""


def sweep(manager: ContainerManager, settings: EngineSettings, now: float) -> list[str]:
    """Remove what `EngineRuntime.sweep` says; their names. ``now``: seconds since the epoch.

    Raises EngineError.
    """
    removed = []
    for one in manager.containers({NODE: settings.node}):
        if now - float(one["Created"]) < _ORPHAN_AFTER or not _orphaned(settings, one):
            continue
        if _kept(manager, settings, one, now):
            continue
        manager.remove(one["Id"])
        removed.append(one["Names"][0].lstrip("/"))
    for place in _left_by_probes(settings, now):
        remove_tree(place)
    return removed


def _orphaned(settings: EngineSettings, one: dict[str, Any]) -> bool:
    state = Path(one["Labels"].get(STATE, "/"))
    if state.is_relative_to(settings.state_root / PROBES):
        return not lock.alive(state)  # nobody takes a probe over
    return state.parent == settings.state_root / ATTEMPTS and not state.exists()


def _kept(
    manager: ContainerManager, settings: EngineSettings, one: dict[str, Any], now: float
) -> bool:
    """Stopped, and the operator wants to look at it for a while."""
    if settings.remove_containers or one["State"] not in ("exited", "dead", "created"):
        return False
    ended = manager.ended(one["Id"]) or float(one["Created"])
    return now - ended < settings.keep_logs_hours * 3600


def _left_by_probes(settings: EngineSettings, now: float) -> Iterator[Path]:
    """Directories of probes whose process died in the middle."""
    place = settings.state_root / PROBES
    for one in list(place.iterdir()) if place.is_dir() else ():
        states = one / ATTEMPTS
        if not one.is_dir() or now - one.stat().st_mtime < _ORPHAN_AFTER:
            continue
        if not any(map(lock.alive, states.iterdir() if states.is_dir() else ())):
            yield one
