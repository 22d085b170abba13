"""Cordon, drain and uncordon of a node: a real agent, stand-ins for Celery workers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.cluster import Cluster
from tasks.cordons import Cordon
from tasks.settings import Settings
from tests.support.nodes import AgentProcess, Start, agents, gone
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with RedisServer() as server, Cluster.connect(Settings(redis_url=server.url)) as cluster:
        yield cluster


@pytest.fixture
def start(tmp_path: Path, cluster: Cluster) -> Iterator[Start]:
    url = f"unix://{cluster.client.connection_pool.connection_kwargs['path']}"
    with agents(tmp_path, url) as start:
        yield start


def says(cluster: Cluster, state: str, slots: list[str] | None = None) -> bool:
    found = cluster.node("node-a")
    if found is None or found.state != state:
        return False
    return slots is None or [slot.state for slot in found.slots] == slots


def last(agent: AgentProcess, slot: str) -> str:
    """The last signal that the slot's stand-in obeyed."""
    path = agent.paths.slots / f"{slot}.last"
    return path.read_text() if path.exists() else ""


def test_a_cordoned_node_ends_its_jobs_takes_none_and_comes_back(
    start: Start, cluster: Cluster
) -> None:
    agent = start(cpu=2)
    agent.wait_ready()
    wait_until(  # it is ready before it says so
        lambda: cluster.capacity().kinds["cpu"].slots == 2, what="a heartbeat with both slots"
    )
    busy = agent.worker_pid("cpu0")
    job = agent.paths.slots / "cpu0.job"
    job.touch()
    cluster.cordon("node-a", why="new disk")
    wait_until(
        lambda: says(cluster, "cordoned", ["draining", "stopped"]), timeout=40, what="cordoned"
    )
    found = cluster.node("node-a")
    assert found is not None
    assert found.cordon == Cordon(why="new disk")
    assert not gone(busy), "its job goes on"
    assert cluster.capacity().kinds["cpu"].slots == 0
    job.unlink()
    wait_until(
        lambda: says(cluster, "cordoned", ["stopped", "stopped"]), timeout=40, what="both stopped"
    )
    assert last(agent, "cpu0") == "SIGTERM"
    assert cluster.uncordon("node-a")
    wait_until(
        lambda: says(cluster, "ready", ["ready", "ready"]), timeout=40, what="it serves again"
    )
    assert not cluster.uncordon("node-a")
    assert agent.stop() == 0
    assert cluster.nodes().items == ()


def test_a_drained_node_hands_its_jobs_back_after_the_time_given(
    start: Start, cluster: Cluster
) -> None:
    agent = start()
    agent.wait_ready()
    (agent.paths.slots / "cpu0.job").touch()
    cluster.drain("node-a", seconds=0.2)
    wait_until(lambda: says(cluster, "cordoned", ["stopped"]), timeout=40, what="drained")
    assert last(agent, "cpu0") == "SIGQUIT"
    cluster.uncordon("node-a")
    wait_until(lambda: says(cluster, "ready", ["ready"]), timeout=40, what="it serves again")


def test_a_cordon_ends_before_the_drain_did_its_work(start: Start, cluster: Cluster) -> None:
    agent = start()
    agent.wait_ready()
    job = agent.paths.slots / "cpu0.job"
    job.touch()
    cluster.drain("node-a", seconds=3600)
    wait_until(lambda: says(cluster, "cordoned", ["draining"]), timeout=40, what="draining")
    cluster.uncordon("node-a")
    wait_until(lambda: not says(cluster, "cordoned"), timeout=40, what="not any more")
    job.unlink()  # the worker ends after its job, and the next one takes jobs
    wait_until(lambda: says(cluster, "ready", ["ready"]), timeout=40, what="it serves again")


def test_a_cordon_is_kept_through_a_restart_of_the_node(start: Start, cluster: Cluster) -> None:
    cluster.cordon("node-a")
    agent = start()
    wait_until(
        lambda: says(cluster, "cordoned", ["stopped"]), timeout=40, what="cordoned from the start"
    )
    assert agent.event("slot.started") is None
    assert agent.stop() == 0
    start(drain=0)
    wait_until(lambda: says(cluster, "cordoned", ["stopped"]), timeout=40, what="and again")
    cluster.client.hset(cluster.keys.cordoned, "node-a", "{garbage")
    cluster.client.publish(cluster.keys.orders("node-a"), "look")
    assert says(cluster, "cordoned"), "a note that cannot be read is a cordon all the same"
    cluster.uncordon("node-a")
    wait_until(lambda: says(cluster, "ready", ["ready"]), timeout=40, what="it serves")
