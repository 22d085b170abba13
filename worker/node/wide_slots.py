"""Wide slots on demand: narrow ones stand aside, one over their devices serves, and they come back.

A narrow slot's worker ends after its job; when all of a set have ended, the wide one is started.
The pool of devices keeps every step safe: whoever is early finds the devices held.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from worker.config import NodeConfig
from worker.devices.inventory import Device, Snapshot
from worker.devices.planner import Demand, Serving, reshape
from worker.node.gpu_slots import name_of, slot_of
from worker.node.log import event
from worker.node.slot_worker import SlotWorker, WorkerState
from worker.node.slots import Slot, SlotKind

_PLAN_EVERY_S: Final = 1.0
_LINGER_S: Final = 5.0
"""A wide slot that has just ended a job, or begun, is not parted at once: more may come."""


@dataclass(kw_only=True, slots=True)
class _Wide:
    slot: Slot
    narrow: tuple[SlotWorker, ...]
    worker: SlotWorker | None = None
    """None: the narrow ones have not all ended yet."""
    parting: bool = False
    keep_until: float = 0.0


class WideSlots:
    """Steps with the agent's loop; one thread."""

    def __init__(
        self,
        config: NodeConfig,
        *,
        make: Callable[[Slot], SlotWorker],
        busy: Callable[[str], bool],
    ) -> None:
        """``make``: a worker that is not started. ``busy``: whether a slot has a job."""
        self._config = config
        self._make = make
        self._busy = busy
        self._wide: list[_Wide] = []
        self._plan_at = 0.0

    @property
    def workers(self) -> list[SlotWorker]:
        """Of wide slots that are, or come to be."""
        return [one.worker for one in self._wide if one.worker is not None]

    def claims(self, worker: SlotWorker) -> bool:
        """Whether a narrow slot's devices are a wide one's, or about to be."""
        return any(worker in one.narrow for one in self._wide)

    def step(
        self,
        now: float,
        narrow: Sequence[SlotWorker],
        demand: Sequence[Demand],
        snapshot: Snapshot,
        *,
        serve: bool,
        unwell: Collection[str] = (),
    ) -> None:
        """Do what is due. ``narrow``: slots of one device each that are well. ``serve``: False
        where the node takes no jobs: then every wide slot is parted, and no narrow one resumed.
        ``unwell``: devices by UUID; a wide slot with one is parted, since the others are well."""
        for one in list(self._wide):
            self._advance(one, now, serve=serve)
            if not one.parting and not set(unwell).isdisjoint(one.slot.devices):
                self._part(one)
        if now < self._plan_at or not serve:
            return
        self._plan_at = now + _PLAN_EVERY_S
        known = snapshot.by_uuid()
        free = [
            one
            for one in narrow
            if not self.claims(one) and _serves(one) and _joins(one.slot, known)
        ]
        for kind in (SlotKind.CUDA, SlotKind.ROCM):
            self._plan(
                now,
                [one for one in free if one.slot.kind is kind],
                [one for one in self._wide if not one.parting and one.slot.kind is kind],
                [one for one in demand if SlotKind(one.kind) is kind],
                snapshot,
            )

    def _plan(
        self,
        now: float,
        free: Sequence[SlotWorker],
        wide: Sequence[_Wide],
        demand: Sequence[Demand],
        snapshot: Snapshot,
    ) -> None:
        """For devices of one kind."""
        plan = reshape(
            [
                *(self._serving(one.slot) for one in free),
                *(self._serving(one.slot, fresh=now < one.keep_until) for one in wide),
            ],
            demand,
            distance=snapshot.distance,
        )
        for one in wide:
            if one.slot.name in plan.part:
                self._part(one)
        for devices in plan.join:
            self._join(devices, free, snapshot, now)

    def _serving(self, slot: Slot, *, fresh: bool = False) -> Serving:
        busy = fresh or self._busy(slot.name)
        return Serving(name=slot.name, devices=slot.devices, busy=busy)

    def _join(
        self, devices: tuple[str, ...], narrow: Sequence[SlotWorker], snapshot: Snapshot, now: float
    ) -> None:
        known = snapshot.by_uuid()
        found = sorted((known[uuid] for uuid in devices), key=lambda one: one.index)
        slot = slot_of(self._config, found, name_of(found, snapshot))
        members = tuple(one for one in narrow if one.slot.devices[0] in devices)
        event("slot.joining", slot=slot.name, of=[one.slot.name for one in members])
        for one in members:
            one.drain()
        self._wide.append(_Wide(slot=slot, narrow=members, keep_until=now + _LINGER_S))

    def _part(self, one: _Wide) -> None:
        event("slot.parting", slot=one.slot.name)
        one.parting = True
        if one.worker is not None:
            one.worker.drain()

    def _advance(self, one: _Wide, now: float, *, serve: bool) -> None:
        if not serve and not one.parting:
            self._part(one)
        if one.worker is None and not one.parting:
            if all(member.state is WorkerState.STOPPED for member in one.narrow):
                one.worker = self._make(one.slot)
                one.keep_until = now + _LINGER_S
        elif self._busy(one.slot.name) or _starts(one.worker):
            one.keep_until = now + _LINGER_S
        if one.parting and self._has_ended(one):
            self._wide.remove(one)
            event("slot.parted", slot=one.slot.name)
            for member in one.narrow:
                if serve:
                    member.serve(now)

    def _has_ended(self, one: _Wide) -> bool:
        """A worker that died may have left its attempt: there is another one for that first."""
        if one.worker is None:
            return True
        return one.worker.state is WorkerState.STOPPED and not self._busy(one.slot.name)


def _joins(slot: Slot, known: Mapping[str, Device]) -> bool:
    """Whether its device can be one of several: it is there, and no MIG instance."""
    return all(one in known and not known[one].parent for one in slot.devices)


def _starts(worker: SlotWorker | None) -> bool:
    """It may take long: a container has to see the devices first."""
    return worker is not None and worker.state is WorkerState.STARTING


def _serves(worker: SlotWorker) -> bool:
    return worker.state in (WorkerState.READY, WorkerState.STARTING, WorkerState.WAITING)
