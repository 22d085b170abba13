"""What is seen of a running attempt's devices, and what ends it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tasks import events
from tasks.state import FailureReason
from worker.device_watch import DeviceWatch
from worker.devices.inventory import Device, GpuProcess, Snapshot
from worker.outcome import NO_DEVICE_STATUS, Ended, Evidence, decide
from worker.plan import AttemptId, ExitStatus
from worker.runner.faults import Exit

pytestmark = pytest.mark.unit


class Changing:
    """An inventory that a test changes."""

    def __init__(self, *devices: Device) -> None:
        self.devices = devices

    def snapshot(self) -> Snapshot:
        return Snapshot(devices=self.devices)

    def close(self) -> None:
        pass


GPU = Device(uuid="g0", memory_mb=80_000, utilisation=50)


def watched(
    tmp_path: Path, inventory: Changing, limit: int = 0, drained: dict[str, str] | None = None
) -> tuple[DeviceWatch, list[tuple[Ended, str]]]:
    """The attempt's processes: this one, which its keeper's record names."""
    directory = tmp_path / "job~1"
    directory.mkdir(exist_ok=True)
    (directory / "keeper.lock").write_text(
        '{"job_id": "job", "fence": 1, "slot": "gpu0", "start": 0, "scratch": "/", "leases": [],'
        f'"pid": {os.getpid()}}}'
    )
    ended: list[tuple[Ended, str]] = []
    made = DeviceWatch(
        inventory,
        ("g0",),
        AttemptId(job_id="job", fence=1),
        attempts=tmp_path,
        limit_mb=limit,
        drained=lambda: drained or {},
        end=lambda kind, why: ended.append((kind, why)),
        tell=lambda event: None,
    )
    return made, ended


def using(memory: int, utilisation: int = 50) -> Device:
    own = GpuProcess(pid=os.getpid(), memory_mb=memory)
    other = GpuProcess(pid=1, memory_mb=70_000)
    return replace(GPU, processes=(own, other), utilisation=utilisation)


def test_it_counts_what_the_attempts_own_processes_use(tmp_path: Path) -> None:
    inventory = Changing(using(1_000, 40))
    watch, ended = watched(tmp_path, inventory)
    watch.look()
    inventory.devices = (using(3_000, 80),)
    watch.look()
    inventory.devices = (using(2_000, 60),)
    watch.look()
    assert watch.totals()["gpus"] == {"g0": {"peak_memory_mb": 3_000, "mean_utilisation": 60.0}}
    assert ended == []


def test_one_that_uses_more_than_its_share_is_stopped(tmp_path: Path) -> None:
    watch, ended = watched(tmp_path, Changing(using(5_001)), limit=5_000)
    watch.look()
    assert ended == [(Ended.GPU_MEMORY, "used 5001 MiB of g0, and its share is 5000")]
    within, none = watched(tmp_path, Changing(using(5_000)), limit=5_000)
    within.look()
    assert none == []


@pytest.mark.parametrize(
    ("devices", "drained", "why"),
    [
        ((), {}, "is not there"),
        ((replace(GPU, fault="lost"),), {}, "lost"),
        ((GPU,), {"g0": "Xid 79"}, "Xid 79"),
    ],
)
def test_one_whose_device_is_not_well_is_stopped(
    tmp_path: Path, devices: tuple[Device, ...], drained: dict[str, str], why: str
) -> None:
    watch, ended = watched(tmp_path, Changing(*devices), drained=drained)
    watch.look()
    ((kind, said),) = ended
    assert kind is Ended.DEVICE_LOST
    assert why in said


def test_a_driver_that_does_not_tell_is_not_asked_for_a_mean(tmp_path: Path) -> None:
    watch, _ = watched(tmp_path, Changing(replace(GPU, utilisation=None)))
    watch.look()
    assert watch.totals()["gpus"] == {"g0": {"peak_memory_mb": 0}}


@pytest.mark.parametrize(
    ("evidence", "reason", "retry"),
    [
        (
            Evidence(exit=ExitStatus(code=None, signal=9), ended=Ended.DEVICE_LOST, why="Xid 79"),
            FailureReason.DEVICE_LOST,
            True,
        ),
        (
            Evidence(exit=ExitStatus(code=None, signal=9), ended=Ended.GPU_MEMORY, why="more"),
            FailureReason.GPU_OUT_OF_MEMORY,
            False,
        ),
        (
            Evidence(exit=ExitStatus(code=NO_DEVICE_STATUS), has_gpu=True),
            FailureReason.NO_DEVICE,
            True,
        ),
        (
            Evidence(exit=ExitStatus(code=NO_DEVICE_STATUS), has_gpu=False),
            FailureReason.USER_ERROR,
            False,
        ),
    ],
)
def test_the_reason_says_what_became_of_the_device(
    evidence: Evidence, reason: FailureReason, retry: bool
) -> None:
    outcome = decide(evidence)
    assert (outcome.reason, outcome.retry) == (reason, retry)


def test_the_runner_and_the_node_mean_the_same_status() -> None:
    assert int(Exit.NO_DEVICE) == NO_DEVICE_STATUS


def test_usage_while_it_runs_is_not_for_ever_in_the_history() -> None:
    assert events.is_state(events.Usage())
    assert not events.is_state(events.Usage(so_far=True))
