"""Slots that are configured no longer serve for as long as something of them goes on."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from tasks.recorded import Lease
from tests.unit.worker.node.test_gpu_slots import GPUS, config
from worker.keeper import lock
from worker.node import retired, slot_records
from worker.node.parking import Parking
from worker.node.paths import NodePaths
from worker.node.slot_records import SlotRecord
from worker.node.slot_worker import SlotWorker, WorkerState
from worker.node.slots import Slot, SlotKind
from worker.note import Note, remember

pytestmark = pytest.mark.unit

Keep = Callable[..., int]


class Worker:
    """A slot's, as far as it is told anything."""

    def __init__(
        self, name: str, state: WorkerState = WorkerState.READY, *, is_retired: bool = True
    ) -> None:
        self.slot = Slot(name=name, retired=is_retired)
        self.state = state
        self.told: list[str] = []

    def go_on(self, now: float, *, hands_back: bool) -> None:
        self.told.append("hand back" if hands_back else "go on")

    def drain(self) -> None:
        self.told.append("drain")


@pytest.fixture
def paths(tmp_path: Path) -> NodePaths:
    paths = NodePaths(state_dir=tmp_path / "state")
    paths.create()
    return paths


@pytest.fixture
def keep(paths: NodePaths) -> Iterator[Keep]:
    """Makes an attempt whose keeper lives; the descriptor that it lives by."""
    held: list[int] = []

    def begin(job: str, slot: str, *devices: str) -> int:
        directory = paths.attempts / f"{job}~1"
        directory.mkdir()
        fd = lock.take(directory)
        assert fd is not None
        held.append(fd)
        record = {"job_id": job, "fence": 1, "pid": 1, "start": 1, "slot": slot}
        os.write(fd, json.dumps({**record, "scratch": "/nowhere", "leases": []}).encode())
        remember(directory, Note(lease=Lease(job_id=job, owner="me", fence=1), devices=devices))
        return fd

    yield begin
    for fd in held:
        os.close(fd)


def test_it_is_known_by_what_it_runs_and_by_its_worker(paths: NodePaths, keep: Keep) -> None:
    keep("a", "cpu0")
    keep("b", "cpu4")
    dead = paths.attempts / "c~1"
    dead.mkdir()
    (dead / lock.LOCK_NAME).write_text((paths.attempts / "b~1" / lock.LOCK_NAME).read_text())
    record = SlotRecord(slot="cpu5", pid=1, start=1, boot_id="b", digest="d", started=1.0)
    slot_records.write(paths, record)
    found = retired.find(paths, {"cpu0"}, config(), GPUS)
    assert found == [Slot(name="cpu4", retired=True), Slot(name="cpu5", retired=True)]


def test_it_has_the_devices_of_its_attempt(paths: NodePaths, keep: Keep) -> None:
    keep("a", "gpu2-3", "GPU-2", "GPU-3")
    keep("b", "gpu9", "GPU-9")
    wide, gone = retired.find(paths, (), config(), GPUS)
    assert (wide.devices, wide.kind) == (("GPU-2", "GPU-3"), SlotKind.CUDA)
    assert wide.gpu_memory_mb == 80_002
    assert gone.devices == (), "that it is not there any more, its watch says"


def told(paths: NodePaths, *workers: Worker, hands_back: bool = False) -> list[list[str]]:
    """What each is told by one step."""
    for worker in workers:
        worker.told = []
    them = [cast("SlotWorker", one) for one in workers]
    retired.step(0.0, paths, them, hands_back=hands_back)
    return [worker.told for worker in workers]


def test_it_serves_until_nothing_of_it_runs(paths: NodePaths, keep: Keep) -> None:
    fd = keep("a", "cpu4")
    four, five = Worker("cpu4"), Worker("cpu5")
    assert told(paths, four, five) == [[], ["drain"]]
    assert [slot.name for slot in retired.left([cast("SlotWorker", four)])] == ["cpu4"]
    fcntl.flock(fd, fcntl.LOCK_UN)  # its keeper has ended
    assert told(paths, four) == [["drain"]]
    four.state = WorkerState.STOPPED
    assert retired.left([cast("SlotWorker", four)]) == []


def test_whose_worker_has_ended_for_good_gets_one_for_what_it_runs(
    paths: NodePaths, keep: Keep
) -> None:
    """As the slots of a node that is cordoned, which are never started."""
    keep("a", "cpu0")
    ran, idle, serves = (
        Worker(name, state, is_retired=False)
        for name, state in [
            ("cpu0", WorkerState.STOPPED),
            ("cpu1", WorkerState.STOPPED),
            ("cpu2", WorkerState.READY),
        ]
    )
    assert told(paths, ran, idle, serves) == [["go on"], [], []]
    assert told(paths, ran, idle, serves, hands_back=True) == [["hand back"], [], []]


def test_a_slot_that_serves_again_gets_no_second_worker(paths: NodePaths, keep: Keep) -> None:
    """A wide one of before the stop, and the same devices joined once more."""
    keep("a", "gpu0-1")
    before = Worker("gpu0-1", WorkerState.STOPPED)
    again = Worker("gpu0-1", is_retired=False)
    assert told(paths, before, again) == [[], []]


@pytest.mark.parametrize(("is_retired", "expected"), [(False, ["drain"]), (True, [])])
def test_one_whose_device_is_not_well_is_not_kept_from_its_attempt(
    is_retired: bool, expected: list[str]
) -> None:
    """Its worker would be ended again before it has taken the attempt up, which it ends then."""
    worker = Worker("gpu0")
    worker.slot = replace(worker.slot, devices=("GPU-0",), retired=is_retired)
    parking = Parking()
    parking.step(0.0, [cast("SlotWorker", worker)], {"GPU-0": "Xid 79"}, cordoned=False)
    assert "gpu0" in parking
    assert worker.told == expected
