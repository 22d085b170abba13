"""``celery -A worker worker``: one slot, started the standard way, without an agent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.cluster import Cluster as View
from tasks.state import JobState
from tests.support.cluster import Cluster
from tests.support.live_node import LiveNode
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

Start = Callable[[], subprocess.Popen[bytes]]
COMMAND = [sys.executable, "-m", "celery", "-A", "worker", "worker", "-c", "1"]


@pytest.fixture
def node(server: RedisServer, tmp_path: Path) -> LiveNode:
    return LiveNode(directory=tmp_path, redis_url=server.url)


@pytest.fixture
def start(node: LiveNode) -> Iterator[Start]:
    """Starts workers of the node's slot cpu0; what is left of them ends with the test."""
    started: list[subprocess.Popen[bytes]] = []
    env = {
        **{name: text for name, text in os.environ.items() if not name.startswith("CYXWIZ_")},
        "CYXWIZ_CONFIG": str(node.write_config()),
        "CYXWIZ_REDIS_URL": node.redis_url,
    }

    def start() -> subprocess.Popen[bytes]:
        with node.log.open("ab") as log:
            started.append(
                subprocess.Popen(COMMAND, env=env, cwd=node.directory, stdout=log, stderr=log)
            )
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


def test_it_runs_jobs(node: LiveNode, start: Start) -> None:
    start()
    cluster = Cluster.of(node)
    job = cluster.shell("echo hello")
    assert job.get(timeout=60)["slot"] == "cpu0"
    assert cluster.logged(job) == ["hello"]
    with View.connect(cluster.settings) as view:
        assert [one.name for one in view.find_nodes({"command": ["true"]}).items] == ["node-a"]
    cluster.wait_clean()
    cluster.close()


def test_a_second_one_is_refused_and_does_no_harm(node: LiveNode, start: Start) -> None:
    first = start()
    cluster = Cluster.of(node)
    job = cluster.shell('while [ ! -e "$GO" ]; do sleep 0.05; done', env={"GO": f"{node.log}.go"})
    cluster.wait_state(job, JobState.RUNNING)
    second = start()
    assert second.wait(60) == 78
    assert f"served by another worker (pid {first.pid})" in node.log.read_text()
    Path(f"{node.log}.go").touch()
    assert job.get(timeout=60)["attempt"] == 1
    cluster.close()


@pytest.mark.parametrize("what", ["queues", "ready"])
def test_one_that_cannot_say_what_it_serves_ends(node: LiveNode, start: Start, what: str) -> None:
    """Celery goes on after a receiver's error: it would stand there and serve nothing."""
    said = node.paths.slots / f"cpu0.{what}"
    said.mkdir(parents=True)  # where a file should be written
    (said / "full").touch()
    assert start().wait(60) == 1
    assert "slot.unable slot=cpu0" in node.log.read_text()
    (said / "full").unlink()
    said.rmdir()
    start()
    cluster = Cluster.of(node)
    assert cluster.shell("true").get(timeout=60)["slot"] == "cpu0"
    cluster.close()


def test_a_talkative_job_is_handed_back_when_the_child_is_told_to_end(
    node: LiveNode, start: Start
) -> None:
    """The signal comes between any two instructions of the thread that reads the job."""
    start()
    cluster = Cluster.of(node)
    wait_until(node.worker, timeout=30, what="the worker")
    for _ in range(6):
        job = cluster.submit({"command": ["sh", "-c", "yes hello world"]})
        cluster.wait_state(job, JobState.RUNNING)
        seen = cluster.record(job).seq
        wait_until(lambda job=job, seen=seen: cluster.record(job).seq > seen + 3, what="its lines")  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        os.kill(node.pool_child(), signal.SIGTERM)
        record = cluster.wait_state(job, JobState.QUEUED, timeout=10)
        assert record.attempt == 0, "a hand-back is no attempt"
        cluster.app.control.revoke(job.id)
        assert cluster.wait_state(job).state is JobState.CANCELLED
    cluster.wait_clean()
    cluster.close()


def test_a_users_own_tasks_py_is_named(node: LiveNode, start: Start) -> None:
    shadow = node.directory / "tasks.py"
    shadow.write_text("import celery\n")
    assert start().wait(60) != 0
    said = node.log.read_text()
    assert str(shadow) in said
    assert "stands before this project's package" in said
