"""Slots that serve no longer, and whose attempts go on all the same.

Fewer slots, or others, after an upgrade; wide ones, which are never configured; those of a node
that comes back cordoned. Each has a worker that takes nothing but what the slot runs already, until
that has ended.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from worker.config import NodeConfig
from worker.devices.inventory import Snapshot
from worker.keeper import lock
from worker.node import slot_records
from worker.node.gpu_slots import slot_of
from worker.node.paths import NodePaths
from worker.node.slot_worker import SlotWorker, WorkerState
from worker.node.slots import Slot
from worker.note import recall


def find(
    paths: NodePaths, configured: Collection[str], config: NodeConfig, snapshot: Snapshot
) -> list[Slot]:
    """Those that an earlier agent served, beside ``configured``: by their worker's record, or by an
    attempt that goes on without one."""
    running = _running(paths)
    names = {*slot_records.recorded(paths), *running}.difference(configured)
    return [_slot(name, running.get(name, ()), config, snapshot) for name in sorted(names)]


def step(
    now: float, paths: NodePaths, workers: Sequence[SlotWorker], *, hands_back: bool = False
) -> None:
    """Have each attempt looked after whose slot's worker has ended for good: for as long as it
    lives, and for nothing else. ``hands_back``: it shall not live on, and its job goes back."""
    serving = {one.slot.name for one in workers if one.state is not WorkerState.STOPPED}
    ended = [one for one in workers if one.slot.name not in serving]
    retired = [one for one in workers if one.slot.retired]
    running = _running(paths) if ended or retired else {}
    for worker in ended:
        if worker.slot.name in running:
            worker.go_on(now, hands_back=hands_back)
    for worker in retired:
        if worker.slot.name not in running:
            worker.drain()


def left(workers: Sequence[SlotWorker]) -> list[Slot]:
    """The slots of ``workers`` that still run something."""
    return [
        worker.slot
        for worker in workers
        if worker.slot.retired and worker.state is not WorkerState.STOPPED
    ]


def _running(paths: NodePaths) -> dict[str, list[Path]]:
    """The attempts whose keepers live, by slot."""
    found: dict[str, list[Path]] = {}
    for directory in sorted(paths.attempts.iterdir()):
        record = lock.read(directory)
        if record is not None and lock.alive(directory):
            found.setdefault(record.slot, []).append(directory)
    return found


def _slot(name: str, attempts: Collection[Path], config: NodeConfig, snapshot: Snapshot) -> Slot:
    """With the devices that its attempts have. Those that are not there any more are missed by
    whoever goes on with the attempt."""
    notes = [note for note in map(recall, attempts) if note is not None]
    known = snapshot.by_uuid()
    uuids = dict.fromkeys(uuid for note in notes for uuid in note.devices if uuid in known)
    if not uuids:
        return Slot(name=name, retired=True)
    return replace(slot_of(config, [known[uuid] for uuid in uuids], name), retired=True)
