"""Slots whose devices are not well: their workers take no job until they are."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from worker.node.log import event
from worker.node.slot_worker import SlotWorker, WorkerState

_SERVES = (WorkerState.WAITING, WorkerState.STARTING, WorkerState.READY)


class Parking:
    """Which slots stand aside. One thread."""

    def __init__(self) -> None:
        self._why: dict[str, str] = {}

    def __contains__(self, slot: str) -> bool:
        return slot in self._why

    def step(
        self,
        now: float,
        workers: Sequence[SlotWorker],
        unwell: Mapping[str, str],
        *,
        cordoned: bool,
    ) -> None:
        """Do what is due. ``unwell``: devices by UUID, and why. ``cordoned``: no slot of the node
        may serve, whatever its devices."""
        for worker in workers:
            name = worker.slot.name
            why = "; ".join(unwell[one] for one in worker.slot.devices if one in unwell)
            if why:
                if name not in self._why:
                    event("slot.parked", level=logging.WARNING, slot=name, why=why)
                self._why[name] = why
                if worker.state in _SERVES and not worker.slot.retired:
                    worker.drain()
            elif self._why.pop(name, ""):
                event("slot.unparked", slot=name)
                if not cordoned:
                    worker.serve(now)
