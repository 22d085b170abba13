"""The agent with real Celery workers."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.settings import Settings
from tests.support.nodes import AgentProcess, Start, agents, gone, serving
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration


@pytest.fixture
def hub() -> Iterator[str]:
    with RedisServer() as server:
        yield server.url


@pytest.fixture
def start(tmp_path: Path, hub: str) -> Iterator[Start]:
    with agents(tmp_path, hub, worker=None) as start:
        yield start


def nap(hub: str, agent: AgentProcess) -> Path:
    """Have the slot busy; the file whose coming ends it."""
    until = agent.paths.state_dir / "enough"
    env = {
        **os.environ,
        "CYXWIZ_REDIS_URL": Settings(redis_url=hub).redis_url,
        "CYXWIZ_STATE_DIR": str(agent.paths.state_dir),
    }
    code = "import sys; from tests.support.celery_slot import nap; nap.delay(sys.argv[1])"
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code, str(until)], env=env, cwd=root, check=True)
    wait_until((agent.paths.slots / "napping").exists, timeout=20, what="the task's start")
    return until


def test_a_task_in_progress_ends_before_the_worker_does(start: Start, hub: str) -> None:
    agent = start(app="tests.support.celery_slot")
    agent.wait_ready()
    until = nap(hub, agent)
    agent.process.send_signal(signal.SIGTERM)
    wait_until(lambda: agent.event("node.draining"), what="the drain")
    assert agent.process.poll() is None
    until.touch()
    assert agent.process.wait(20) == 0
    assert (agent.paths.slots / "slept").exists()
    assert not serving(agent.paths.state_dir)


def test_a_stop_now_tells_the_task_and_does_not_wait_for_celerys_soft_shutdown(
    start: Start, hub: str
) -> None:
    agent = start(app="tests.support.celery_slot", drain=0.0)
    agent.wait_ready()
    nap(hub, agent)
    assert agent.stop() == 0
    assert (agent.paths.slots / "woken").exists()
    assert agent.event("slot.killed") is None
    assert not serving(agent.paths.state_dir)


def test_a_killed_worker_takes_its_pool_child_with_it(start: Start, hub: str) -> None:
    agent = start(app="tests.support.celery_slot")
    agent.wait_ready()
    nap(hub, agent)
    worker = agent.worker_pid()
    child = int((agent.paths.slots / "napping").read_text())
    assert child != worker
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: gone(child), what="the end of the pool child")
    wait_until(
        lambda: agent.paths.slot_ready("cpu0").exists() and agent.worker_pid() != worker,
        timeout=20,
        what="another worker",
    )


@pytest.mark.skipif(importlib.util.find_spec("worker.celery") is None, reason="no worker.celery")
def test_the_nodes_own_workers_answer_a_ping(start: Start, hub: str) -> None:
    agent = start(cpu=2)
    agent.wait_ready(timeout=40)
    ping = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "tasks", "inspect", "ping", "--timeout=5"],
        env={**os.environ, "CYXWIZ_REDIS_URL": hub},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "cpu0@node-a: OK" in ping.stdout
    assert "cpu1@node-a: OK" in ping.stdout
    assert agent.stop(timeout=40) == 0
    assert not serving(agent.paths.state_dir)


def test_what_a_killed_worker_put_aside_goes_with_it(start: Start, tmp_path: Path) -> None:
    agent = start()
    agent.wait_ready()
    temp = agent.paths.slot_temp("cpu0")

    def put_aside() -> set[str]:
        return {path.name for path in temp.glob("pymp-*")}

    first, left = agent.worker_pid(), put_aside()
    assert left, "billiard has its directory there"
    os.kill(first, signal.SIGKILL)
    wait_until(
        lambda: (agent.event("slot.ready") or {})["pid"] != first, timeout=20, what="another worker"
    )
    assert not left & put_aside()
    (temp / "more").mkdir()
    assert agent.stop() == 0
    assert not list(agent.paths.temp.iterdir())
