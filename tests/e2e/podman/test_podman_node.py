"""A whole node on rootless Podman, run by the ordinary user whose Podman it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import JobRejected
from tasks.state import JobState
from tests.support import engine
from tests.support.contained import Contained
from tests.support.redis_server import RedisServer
from tests.support.runtimes import engine_socket
from tests.support.waiting import wait_until
from worker.node import slot_records

pytestmark = [pytest.mark.e2e, pytest.mark.podman]

JOB: dict[str, Any] = {
    "image": engine.BASE,
    "command": ["python3", "-S", "-c", "import os; print(os.getuid(), os.listdir('/job'))"],
}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Contained]]:
    started: list[Contained] = []
    socket = engine_socket("podman")
    with RedisServer() as server:

        def start(**podman: Any) -> Contained:
            extra = {
                "execution": {"mode": "podman"},
                "podman": {"socket": str(socket), **podman},
                "docker": {"enabled": False},
            }
            started.append(Contained.start(tmp_path, server.url, socket, extra=extra, slots=1))
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
    records.client.hdel(records.keys.job(job.id), "avoid:node-a")  # as 30 s later
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
