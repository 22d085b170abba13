"""A whole node on rootless Podman, run by the ordinary user whose Podman it is."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery.result import AsyncResult

from tasks.errors import JobRejected
from tasks.state import JobState
from tests.support import engine, podman
from tests.support.contained import Contained
from tests.support.podman import Podman
from tests.support.redis_server import RedisServer
from tests.support.runtimes import engine_socket
from tests.support.waiting import wait_until
from worker.node import slot_records

pytestmark = [pytest.mark.e2e, pytest.mark.podman]

JOB: dict[str, Any] = {
    "image": engine.BASE,
    "command": ["python3", "-S", "-c", "import os; print(os.getuid(), os.listdir('/job'))"],
}


SCRIPT = """
import os, time
print("began")
open("/job/checkpoints/began", "w")
while not os.path.exists("/job/checkpoints/go"): time.sleep(0.02)
print("ended")
"""
WAITS: dict[str, Any] = {
    "image": engine.BASE,
    "command": ["python3", "-S", "-u", "-c", SCRIPT],
}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Contained]]:
    started: list[Contained] = []
    with RedisServer() as server:

        def start(*, socket: Path | None = None, slots: int = 1, **podman: Any) -> Contained:
            socket = socket or engine_socket("podman")
            extra = {
                "execution": {"mode": "podman"},
                "podman": {"socket": str(socket), **podman},
                "docker": {"enabled": False},
            }
            started.append(Contained.start(tmp_path, server.url, socket, extra=extra, slots=slots))
            return started[-1]

        yield start
        for one in started:
            one.close()


def test_a_job_that_needs_a_sandbox_is_never_started_where_memory_is_not_kept(
    start: Callable[..., Contained],
) -> None:
    """Its queue is not read; and one that is brought to the node is told which promise fails."""
    contained = start()
    paths = contained.node.paths
    if len(slot_records.queues(paths, "cpu0")) > 2:
        pytest.skip("Podman keeps the limit on memory on this host")
    job = contained.cluster.submit(JOB)
    records = contained.cluster.app.records
    contained.deliver(job)
    wait_until(
        lambda: records.get(job.id).reason == "sandbox_unavailable",
        timeout=30,
        what="it is handed back",
    )
    assert "the limit on memory is not kept" in records.get(job.id).message
    contained.cluster.forget_hand_back(job)
    contained.deliver(job)
    wait_until(lambda: records.get(job.id).state is JobState.REJECTED, timeout=30, what="rejected")
    with pytest.raises(JobRejected, match="memory"):
        job.get(timeout=10)
    assert contained.containers() == []


def test_what_the_operator_accepts_stands_in_each_jobs_record(
    start: Callable[..., Contained],
) -> None:
    contained = start(accept_unenforced=["memory"])
    job = contained.cluster.submit(JOB)
    result = job.get(timeout=60)
    assert result["mode"] == "podman"
    sandbox = contained.cluster.app.records.get(job.id).sandbox
    if sandbox["unenforced"]:
        assert sandbox["unenforced"] == ["memory"]
        assert sandbox["stood_in"] == ["pids", "cpu"]
    assert sandbox["engine"].startswith("podman ")
    contained.wait_clean()


def again(contained: Contained, job: AsyncResult) -> bool:
    """Bring a job that was handed back, as 30 s later; whether it ran."""
    records = contained.cluster.app.records
    before = records.get(job.id).fence
    contained.cluster.forget_hand_back(job)
    contained.deliver(job)

    def settled() -> bool:
        seen = records.get(job.id)
        return seen.state.terminal or (seen.state is JobState.QUEUED and seen.fence > before)

    wait_until(settled, timeout=60, what="it ran, or was handed back")
    return records.get(job.id).state is JobState.SUCCEEDED


def test_podman_dies_under_a_running_node_and_comes_back(
    start: Callable[..., Contained],
) -> None:
    """A container is no child of Podman's: its job goes on. One that comes is handed back."""
    podman.require()
    with Podman() as own:
        engine.import_base(own.socket)
        contained = start(socket=own.socket, slots=2, accept_unenforced=["memory"])
        job = contained.cluster.submit(WAITS)
        place = contained.cluster.checkpoints(job)
        wait_until((place / "began").exists, timeout=60, what="it began")
        contained.cluster.wait_state(job, JobState.RUNNING)
        own.stop(signal.SIGKILL)
        records = contained.cluster.app.records
        other = contained.cluster.submit(JOB)
        wait_until(
            lambda: records.get(other.id).reason == "engine_error",
            timeout=30,
            what="what comes meanwhile is handed back",
        )
        assert "podman at" in records.get(other.id).message
        own.start()
        (place / "go").touch()
        assert job.get(timeout=60)["mode"] == "podman"
        assert contained.cluster.logged(job) == ["began", "ended"]
        assert contained.cluster.record(job).attempt == 1
        wait_until(lambda: again(contained, other), timeout=60, what="the other one runs too")
        assert other.get(timeout=30)["mode"] == "podman"
        contained.wait_clean()
        contained.close()
