"""A node's entry in a real Redis."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import redis

from tasks.errors import NodeConflict
from tasks.keys import Keys
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until
from worker.node.identity import NodeIdentity
from worker.node.registry import Heartbeat, NodeRecord, NodeRegistry, NodeState, SlotEntry

pytestmark = pytest.mark.integration

KEYS = Keys(prefix="t:")
WHO = NodeIdentity(
    name="node-a",
    node_id="1" * 32,
    instance="i1",
    hostname="attic",
    boot_id="boot-1",
    pid=17,
    started=1_000.0,
)


def record_of(who: NodeIdentity) -> NodeRecord:
    return NodeRecord(
        name=who.name,
        node_id=who.node_id,
        instance=who.instance,
        state=NodeState.READY,
        started=who.started,
        hostname=who.hostname,
        pid=who.pid,
        slots=(SlotEntry(name="cpu0", kind="cpu", state="ready"),),
        pool="",
        labels={"site": "attic"},
        mode="native",
    )


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with RedisServer() as server:
        yield server.url


@pytest.fixture
def client(server: str) -> Iterator[redis.Redis]:
    client = redis.Redis.from_url(server, decode_responses=True)
    client.flushall()
    yield client
    client.close()


Enter = Callable[..., NodeRegistry]


@pytest.fixture
def enter(client: redis.Redis) -> Enter:
    """Registers a node that differs from WHO in what is given."""

    def enter(ttl_ms: int = 30_000, **differs: object) -> NodeRegistry:
        who = replace(WHO, **differs)  # type: ignore[arg-type]  # a test's own keywords
        registry = NodeRegistry(client, KEYS, who, ttl_ms=ttl_ms)
        registry.beat(record_of(who))
        return registry

    return enter


def test_the_entry_says_what_the_node_offers_and_lives_by_its_ttl(
    client: redis.Redis, enter: Enter
) -> None:
    enter()
    stored = json.loads(client.hget(KEYS.node("node-a"), "record") or "")
    assert stored["v"] == 1
    assert stored["slots"] == [{"name": "cpu0", "kind": "cpu", "state": "ready", "devices": []}]
    assert stored["labels"] == {"site": "attic"}
    assert stored["sandbox_level"] == 0
    assert stored["docker_available"] is False
    assert stored["podman_available"] is False
    assert stored["nvidia_container_toolkit"] is False
    assert stored["container_images"] == []
    assert stored["cpu_count"] >= 1
    assert stored["memory_mb"] > 0
    assert set(stored["versions"]) >= {"celery", "redis"}
    assert 29_000 < client.pttl(KEYS.node("node-a")) <= 30_000


def test_a_name_that_a_live_node_has_is_refused(enter: Enter, client: redis.Redis) -> None:
    enter()
    before = client.hgetall(KEYS.node("node-a"))
    with pytest.raises(NodeConflict, match="on host attic with pid 17"):
        enter(node_id="2" * 32, instance="i2", hostname="cellar", pid=18)
    assert client.hgetall(KEYS.node("node-a")) == before


def test_a_copied_state_directory_on_another_host_is_refused(enter: Enter) -> None:
    enter()
    with pytest.raises(NodeConflict):
        enter(instance="i2", boot_id="boot-2", hostname="cellar")


def test_the_successor_in_the_same_state_directory_is_let_in_at_once(
    enter: Enter, client: redis.Redis
) -> None:
    enter()
    enter(instance="i2", pid=18)
    assert client.hget(KEYS.node("node-a"), "pid") == "18"


def test_the_name_is_free_again_when_the_heartbeat_has_stopped(
    enter: Enter, client: redis.Redis
) -> None:
    enter(ttl_ms=50)
    wait_until(lambda: not client.exists(KEYS.node("node-a")), what="the TTL")
    enter(node_id="2" * 32, instance="i2")


def test_the_clock_is_that_of_redis(enter: Enter, client: redis.Redis) -> None:
    """Nodes whose clocks are years apart: the index and the decision do not notice."""
    before = client.time()
    enter(started=0.0)
    enter(name="node-b", node_id="2" * 32, instance="i2", started=9e9)
    after = client.time()
    for name in ("node-a", "node-b"):
        score = client.zscore(KEYS.nodes, name)
        assert score is not None
        assert before[0] * 1000 <= score <= after[0] * 1000 + 1000
    with pytest.raises(NodeConflict):
        enter(node_id="3" * 32, instance="i3", started=9e9)


def test_a_clean_stop_leaves_nothing(enter: Enter, client: redis.Redis) -> None:
    registry = enter()
    registry.leave()
    registry.leave()
    assert client.keys() == []


def test_leaving_does_not_remove_the_successor(enter: Enter, client: redis.Redis) -> None:
    first = enter()
    enter(instance="i2")
    first.leave()
    assert client.hget(KEYS.node("node-a"), "instance") == "i2"
    assert client.zscore(KEYS.nodes, "node-a") is not None


def test_the_heartbeat_keeps_the_entry_and_writes_it_again_after_redis_lost_it(
    client: redis.Redis,
) -> None:
    registry = NodeRegistry(client, KEYS, WHO, ttl_ms=150)
    heartbeat = Heartbeat(registry, lambda: record_of(WHO))
    heartbeat.start()
    try:
        wait_until(lambda: client.exists(KEYS.node("node-a")), what="the first beat")
        first = client.hget(KEYS.node("node-a"), "beat")
        wait_until(lambda: client.hget(KEYS.node("node-a"), "beat") not in (first, None))
        client.flushall()
        wait_until(lambda: client.exists(KEYS.node("node-a")), what="the entry, again")
    finally:
        heartbeat.stop()
