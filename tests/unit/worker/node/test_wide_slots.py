"""Which slots are joined and parted, with workers that only say what they were told."""

from __future__ import annotations

import pytest

from tasks.choices import Device as Kind
from worker.config import NodeConfig
from worker.devices.inventory import Device, Snapshot
from worker.devices.planner import Demand
from worker.node.gpu_slots import gpu_slots
from worker.node.second_looks import due
from worker.node.slot_records import Unseen
from worker.node.slot_worker import SlotWorker, WorkerState
from worker.node.slots import Slot
from worker.node.wide_slots import WideSlots

pytestmark = pytest.mark.unit


class Worker(SlotWorker):
    """One that is ready at once, and ends at once."""

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self._state = WorkerState.READY

    def drain(self) -> None:
        self._state = WorkerState.STOPPED

    def serve(self, now: float) -> None:
        self._state = WorkerState.READY


class Shaped:
    """Wide slots over these devices."""

    def __init__(self, *devices: Device) -> None:
        config = NodeConfig()
        self.snapshot = Snapshot(devices=devices)
        self.narrow = [Worker(slot) for slot in gpu_slots(config, self.snapshot)]
        self.busy: set[str] = set()
        self.wide = WideSlots(config, make=self._made, busy=self.busy.__contains__)
        self.first_state = WorkerState.READY
        self._now = 0.0

    def _made(self, slot: Slot) -> Worker:
        made = Worker(slot)
        made._state = self.first_state
        return made

    def steps(self, *demand: Demand, unwell: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
        """The devices of each wide slot, after a while."""
        for _ in range(4):
            self._now += 2
            well = [one for one in self.narrow if set(unwell).isdisjoint(one.slot.devices)]
            self.wide.step(self._now, well, demand, self.snapshot, serve=True, unwell=unwell)
        return [one.slot.devices for one in self.wide.workers]


def gpu(number: int, kind: Kind = Kind.CUDA) -> Device:
    return Device(uuid=f"{kind}-{number}", index=number, kind=kind, memory_mb=80_000)


def test_a_wide_slot_with_a_lost_device_is_parted_and_others_are_joined() -> None:
    shaped = Shaped(*(gpu(number) for number in range(4)))
    two = Demand(width=2)
    assert shaped.steps(two) == [("cuda-0", "cuda-1")]
    assert shaped.steps(two, unwell=("cuda-1",)) == [("cuda-2", "cuda-3")]
    assert shaped.narrow[0].state is WorkerState.READY, "what is well serves again"
    assert shaped.steps() == []


def test_devices_of_two_kinds_are_never_joined() -> None:
    shaped = Shaped(gpu(0), gpu(0, Kind.ROCM), gpu(1), gpu(1, Kind.ROCM))
    assert shaped.steps(Demand(width=3)) == []
    assert shaped.steps(Demand(width=2, kind=Kind.ROCM)) == [("rocm-0", "rocm-1")]
    both = shaped.steps(Demand(width=2, kind=Kind.ROCM), Demand(width=2))
    assert sorted(both) == [("cuda-0", "cuda-1"), ("rocm-0", "rocm-1")]


def test_a_wide_slot_that_takes_long_to_start_is_not_parted_before_it_serves() -> None:
    shaped = Shaped(gpu(0), gpu(1))
    shaped.first_state = WorkerState.STARTING
    assert shaped.steps(Demand(width=2)) == [("cuda-0", "cuda-1")]
    for _ in range(5):
        assert shaped.steps() == [("cuda-0", "cuda-1")]
    shaped.wide.workers[0].serve(0)  # it is ready, and has nothing to do
    for _ in range(2):
        shaped.steps()
    assert shaped.wide.workers == []


def test_when_a_slot_looks_for_its_devices_again() -> None:
    once, often = Unseen(at=1000, times=1), Unseen(at=1000, times=200)
    assert [due(once, now) for now in (1000, 1004, 1005)] == [False, False, True]
    assert [due(often, now) for now in (1599, 1600)] == [False, True]
    assert due(once, 900), "the clock was set back"


def test_instances_of_a_gpu_are_never_joined() -> None:
    parent = Device(uuid="GPU-9", index=9, partitioned=True)
    parts = [Device(uuid=f"MIG-{one}", index=one, parent="GPU-9") for one in range(3)]
    shaped = Shaped(parent, *parts, gpu(0), gpu(1))
    assert shaped.steps(Demand(width=2)) == [("cuda-0", "cuda-1")]
    assert shaped.steps(Demand(width=3)) == []


def test_a_driver_that_has_gone_joins_nothing() -> None:
    shaped = Shaped(gpu(0), gpu(1))
    shaped.snapshot = Snapshot(reason="the driver does not answer")
    assert shaped.steps(Demand(width=2)) == []


def test_a_wide_slot_stays_while_something_of_it_runs_without_a_worker() -> None:
    """Its worker died: the attempt goes on, and nobody else would see to it."""
    shaped = Shaped(gpu(0), gpu(1))
    shaped.steps(Demand(width=2))
    [worker] = shaped.wide.workers
    shaped.busy.add(worker.slot.name)
    for _ in range(2):
        shaped.wide.step(100, [], [], shaped.snapshot, serve=False)
        assert shaped.wide.workers == [worker]
        assert worker.state is WorkerState.STOPPED
    shaped.busy.clear()
    shaped.wide.step(200, [], [], shaped.snapshot, serve=False)
    assert shaped.wide.workers == []
