"""Which of a node's slots serve: those of devices that are not well stand aside, and slots of one
device each are joined for a job that asks for more."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from tasks.settings import Settings
from worker.config import NodeConfig
from worker.node import retired, slot_records
from worker.node.device_care import DeviceCare
from worker.node.parking import Parking
from worker.node.paths import NodePaths
from worker.node.second_looks import SecondLooks
from worker.node.slot_worker import SlotWorker
from worker.node.slots import Slot
from worker.node.wide_demand import WideDemand
from worker.node.wide_slots import WideSlots


class Shaping:
    """Driven by `step`, on the agent's thread."""

    def __init__(
        self,
        config: NodeConfig,
        settings: Settings,
        *,
        paths: NodePaths,
        slots: Sequence[Slot],
        devices: DeviceCare,
        make: Callable[[Slot], SlotWorker],
        busy: Callable[[str], bool],
    ) -> None:
        """``slots``: those of the configuration. ``make``: a worker for a slot. ``busy``: whether
        the slot of that name has a job."""
        self._config = config
        self._paths = paths
        self._slots = slots
        self._devices = devices
        self._parking = Parking()
        self._wide = WideSlots(config, make=make, busy=busy)
        self._second_looks = SecondLooks(paths, busy=busy)
        self._read: dict[str, tuple[str, ...]] = {}
        """By slot of a single device: what it read last."""
        self.demand = WideDemand(settings, self._narrow_queues, self._most_devices())
        """A service: what is asked for that one device is too little for."""

    def stands_aside(self, worker: SlotWorker) -> bool:
        """Whether the slot takes no job for now, and that is right."""
        return worker.slot.name in self._parking or self._wide.claims(worker)

    def step(
        self, now: float, workers: list[SlotWorker], *, serves: bool, stopping: bool
    ) -> Iterator[SlotWorker]:
        """The workers that there shall be, of ``workers``, of which the configured come first.
        ``serves``: the node takes jobs; ``stopping``: devices matter no more."""
        joined = len(self._wide.workers)
        kept = workers[: len(workers) - joined]
        unclaimed = [one for one in workers[: len(self._slots)] if not self._wide.claims(one)]
        unwell = (
            {}
            if stopping
            else {**self._retired_devices(kept[len(self._slots) :]), **self._devices.unwell()}
        )
        self._parking.step(now, unclaimed, unwell, cordoned=not serves)
        if self.demand.serves:
            narrow = [
                worker
                for worker in unclaimed
                if worker.slot.devices and worker.slot.name not in self._parking
            ]
            self._wide.step(
                now,
                narrow,
                self.demand.found,
                self._devices.snapshot,
                serve=serves,
                unwell=unwell,
            )
        if serves:
            self._second_looks.step(time.time(), [*unclaimed, *self._wide.workers])
        yield from kept
        yield from self._wide.workers

    def _retired_devices(self, workers: Sequence[SlotWorker]) -> dict[str, str]:
        """Those of slots that are configured no longer, and still run something: UUID to why no
        other slot may have them. Shared ones it may."""
        if self._config.gpu.jobs_per_device > 1:
            return {}
        return {
            uuid: f"slot {slot.name}, which is configured no longer, still has a job on it"
            for slot in retired.left(workers)
            for uuid in slot.devices
        }

    def _most_devices(self) -> int:
        """How many devices a wide slot could have: none where the operator has said which there
        are, or jobs share them."""
        config = self._config
        if config.slots.gpu != "auto" or config.gpu.jobs_per_device > 1:
            return 0
        kinds = Counter(one.kind for one in self._devices.snapshot.usable if not one.parent)
        return max(kinds.values(), default=0)

    def _narrow_queues(self) -> list[str]:
        """What the slots of single devices read, as they said last: one that is part of a wide
        slot now reads nothing, and what waits for such a slot is asked for all the same."""
        for slot in self._slots:
            said = slot_records.queues(self._paths, slot.name)
            if said and len(slot.devices) == 1:
                self._read[slot.name] = said
        return [name for said in self._read.values() for name in said]
