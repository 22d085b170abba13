"""A live node with GPUs that are stood in for below NVIDIA's libraries: who computes on which."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import JobFailed
from tasks.events import Retrying, Started
from tasks.state import FailureReason, JobState
from tests.support.cluster import Cluster
from tests.support.gpus.stand_in import Host, uuid
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

SHOWN = """
import json, os
names = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "CYXWIZ_DEVICES")
print(json.dumps({name: os.environ.get(name) for name in names}), flush=True)
"""
WAITS = """
import os, sys, time
print(os.getpid(), flush=True)
time.sleep(600)
"""


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "gpus", gpus=3).write()


@pytest.fixture
def start(start_cluster: Callable[..., Cluster], host: Host) -> Callable[..., Cluster]:
    """Starts a node on ``host``."""
    allowed = ["PATH", "LD_LIBRARY_PATH", "STAND_IN_GPUS"]

    def begin(**extra: dict[str, Any]) -> Cluster:
        return start_cluster(extra={"native": {"env_allow": allowed}, **extra}, env=host.env)

    return begin


def shown(cluster: Cluster, job: Any) -> dict[str, str]:
    """What the job said of its environment."""
    job.get(timeout=60)
    (line,) = cluster.logged(job)
    return json.loads(line)  # type: ignore[no-any-return]  # JSON


def started(cluster: Cluster, job: Any) -> Started:
    return next(one.event for one in cluster.events(job) if isinstance(one.event, Started))


def test_every_slot_has_its_devices_and_a_cpu_slot_none(
    start: Callable[..., Cluster], host: Host
) -> None:
    cluster = start(slots={"cpu": 1, "gpu": [[0], [1, 2]]})
    one = cluster.command(SHOWN, required_device="cuda")
    two = cluster.command(SHOWN, required_device="cuda", gpus=2)
    none = cluster.command(SHOWN)
    pair = f"{uuid(1)},{uuid(2)}"
    assert shown(cluster, one) == dict.fromkeys(shown(cluster, one), uuid(0))
    assert shown(cluster, two) == dict.fromkeys(shown(cluster, two), pair)
    assert shown(cluster, none) == {
        "CUDA_VISIBLE_DEVICES": "",
        "NVIDIA_VISIBLE_DEVICES": "void",
        "CYXWIZ_DEVICES": "",
    }
    assert started(cluster, two).devices == (uuid(1), uuid(2))
    result = two.get()
    assert result["slot"] == "gpu1-2"
    assert set(result["gpus"]) == {uuid(1), uuid(2)}
    assert result["gpu_seconds"] > 0


def test_a_job_that_would_run_on_the_cpu_fails(start: Callable[..., Cluster], host: Host) -> None:
    # the node's NVML shows the GPUs, and CUDA cannot be reached from a job
    cluster = start(slots={"cpu": 0, "gpu": [[0]]}, native={"env_allow": ["PATH"]})
    job = cluster.command(SHOWN, required_device="cuda", max_attempts=1)
    with pytest.raises(JobFailed, match="libcuda") as failed:
        job.get(timeout=60)
    assert failed.value.reason == FailureReason.NO_DEVICE


def test_a_lost_gpu_ends_its_job_alone_and_its_slot_stands_aside_until_it_is_well(
    start: Callable[..., Cluster], host: Host
) -> None:
    cluster = start(slots={"cpu": 0, "gpu": [[0], [1]]})
    first = cluster.command(WAITS, required_device="cuda", max_attempts=1)
    cluster.wait_state(first, JobState.RUNNING)
    second = cluster.command(WAITS, required_device="cuda")
    cluster.wait_state(second, JobState.RUNNING)
    (lost,) = cluster_devices(cluster, first)
    host.gpu(int(lost[-12:], 16), xid="1 79")
    with pytest.raises(JobFailed, match="Xid 79") as failed:
        first.get(timeout=30)
    assert failed.value.reason == FailureReason.DEVICE_LOST
    assert cluster.record(second).state is JobState.RUNNING
    wait_until(lambda: cluster.node.said.count("slot.unparked") == 1, timeout=40)
    third = cluster.command(SHOWN, required_device="cuda")
    assert shown(cluster, third)["CYXWIZ_DEVICES"] == lost
    assert cluster.record(second).state is JobState.RUNNING, list(cluster.events(second, 1))
    second.revoke()
    cluster.wait_state(second)


def cluster_devices(cluster: Cluster, job: Any) -> tuple[str, ...]:
    """The devices of a running job, as the pool has them."""
    from worker.devices.ledger import FileLedger

    ledger = FileLedger(cluster.node.paths.leases / "devices")
    return tuple(
        one.held.device
        for one in ledger.found()
        if one.alive and one.held.attempt.startswith(job.id)
    )


def test_one_that_uses_more_than_its_share_is_stopped(
    start: Callable[..., Cluster], host: Host
) -> None:
    host.gpus = 1
    host.write()
    cluster = start(
        slots={"cpu": 0, "gpu": "auto"},
        gpu={"allocation": "shared", "max_jobs_per_device": 2, "memory_limit_mb": 8_000},
    )
    jobs = [cluster.command(WAITS, required_device="cuda", max_attempts=1) for _ in range(2)]
    for job in jobs:
        cluster.wait_state(job, JobState.RUNNING)
    # a job's process is known by its environment, which it has a moment after it is started
    wait_until(lambda: len(cluster.node.job_pids()) == 2, what="both jobs' processes")
    pids = cluster.node.job_pids()
    host.process(0, pids[0], 9_000)
    wait_until(
        lambda: any(cluster.record(job).state is JobState.FAILED for job in jobs), timeout=20
    )
    (stopped,) = [job for job in jobs if cluster.record(job).state is JobState.FAILED]
    with pytest.raises(JobFailed, match="its share is 8000") as failed:
        stopped.get(timeout=10)
    assert failed.value.reason == FailureReason.GPU_OUT_OF_MEMORY
    (other,) = [job for job in jobs if job is not stopped]
    assert cluster.record(other).state is JobState.RUNNING
    other.revoke()
    cluster.wait_state(other)


def test_leftovers_of_a_job_keep_its_gpu_from_the_next(
    start: Callable[..., Cluster], host: Host
) -> None:
    cluster = start(slots={"cpu": 0, "gpu": [[0]]})
    host.process(0, 1, 4_000)  # of somebody else
    job = cluster.command(SHOWN, required_device="cuda")

    def turned_away() -> bool:
        return cluster.record(job).reason == FailureReason.NO_DEVICE

    wait_until(turned_away, timeout=30, what="the job is handed back")
    host.idle(0)
    cluster.forget_hand_back(job)
    assert shown(cluster, job)["CYXWIZ_DEVICES"] == uuid(0)
    told = [one.event for one in cluster.events(job) if isinstance(one.event, Retrying)]
    assert any("no job's: 1" in one.message for one in told)


def test_a_wide_job_gets_a_slot_of_its_own_and_narrow_ones_come_back(
    start: Callable[..., Cluster], host: Host
) -> None:
    cluster = start(slots={"cpu": 0, "gpu": "auto"})
    narrow = cluster.command(WAITS, required_device="cuda")
    cluster.wait_state(narrow, JobState.RUNNING)
    wide = cluster.command(SHOWN, required_device="cuda", gpus=2)
    seen = shown(cluster, wide)
    (busy,) = cluster_devices(cluster, narrow)
    idle = [uuid(number) for number in range(3) if uuid(number) != busy]
    assert seen["CYXWIZ_DEVICES"] == ",".join(idle)
    assert wide.get()["slot"] == "gpu" + "-".join(str(int(one[-12:], 16)) for one in idle)
    wait_until(lambda: "slot.parted" in cluster.node.said, timeout=40, what="it is parted")
    after = [cluster.command(SHOWN, required_device="cuda") for _ in range(2)]
    assert {shown(cluster, job)["CYXWIZ_DEVICES"] for job in after} <= set(idle)
    assert cluster.record(narrow).state is JobState.RUNNING
    narrow.revoke()
    cluster.wait_state(narrow)


def test_a_job_on_a_wide_slot_outlives_its_nodes_stop(
    start: Callable[..., Cluster], host: Host, tmp_path: Path
) -> None:
    """No configuration names that slot: the next agent knows of it by what it runs."""
    cluster = start(slots={"cpu": 0, "gpu": "auto"})
    go = tmp_path / "go"
    script = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.05)"
    wide = cluster.command(script, required_device="cuda", gpus=2)
    cluster.wait_state(wide, JobState.RUNNING)
    devices, pids = cluster_devices(cluster, wide), cluster.node.job_pids()
    assert cluster.node.leave() == 0
    cluster.node.start()
    cluster.wait_adopted(wide)
    assert (cluster_devices(cluster, wide), cluster.node.job_pids()) == (devices, pids)
    assert cluster.node.said.count("slot.parked") == 2, "the slots of its devices stand aside"
    go.touch()
    result = wide.get(timeout=60)
    assert (result["attempt"], set(result["gpus"])) == (1, set(devices))
    wait_until(lambda: cluster.node.said.count("slot.unparked") == 2, timeout=40)
