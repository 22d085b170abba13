"""Nodes as `tasks.cluster` sees them, on a real Redis; they are entries there, no more."""

from __future__ import annotations

import pytest

from tasks.cluster import Cluster, NodeStatus
from tasks.events import Succeeded
from tasks.record import Records
from tests.conftest import Hub
from tests.integration.hub.support import (
    CUDA,
    Enter,
    claim,
    finish,
    run_out,
    status,
    submit,
    try_claim,
)
from tests.support.fleet import cpu_offer, gpu_offer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration


def test_nodes_come_by_name_in_pages(cluster: Cluster, enter: Enter) -> None:
    for name in ("node-c", "node-a", "node-b"):
        enter(name, cpu_offer(), gpu_offer(), labels={"site": name})
    first = cluster.nodes(limit=2)
    assert [one.name for one in first.items] == ["node-a", "node-b"]
    second = cluster.nodes(limit=2, after=first.next)
    assert ([one.name for one in second.items], second.next) == (["node-c"], "")
    (one,) = second.items
    assert (one.status, one.state, one.labels) == (NodeStatus.ALIVE, "ready", {"site": "node-c"})
    assert [(slot.name, slot.kind, slot.job_id) for slot in one.slots] == [
        ("cpu0", "cpu", ""),
        ("gpu0", "gpu", ""),
    ]
    assert one.problem == ""
    assert cluster.node("node-z") is None


def test_a_node_says_who_holds_its_slots(cluster: Cluster, enter: Enter, records: Records) -> None:
    enter("node-a")
    job_id = submit(records)
    lease = claim(records, job_id)
    found = cluster.node("node-a")
    assert found is not None
    assert [slot.job_id for slot in found.slots] == [job_id]
    assert cluster.capacity().kinds["cpu"].busy == 1
    finish(records, lease, Succeeded())
    found = cluster.node("node-a")
    assert found is not None
    assert (found.busy, cluster.capacity().kinds["cpu"].busy) == (0, 0)


def test_a_node_that_vanishes_is_lost_and_then_gone(
    cluster: Cluster, enter: Enter, hub: Hub
) -> None:
    enter("node-a", ttl_ms=40)
    enter("node-b")
    wait_until(lambda: status(cluster, "node-a") is NodeStatus.LOST, what="lost")
    hub.client.zincrby(hub.keys.nodes, -400_000, "node-a")  # as if it were minutes ago
    assert status(cluster, "node-a") is NodeStatus.GONE
    assert status(cluster, "node-b") is NodeStatus.ALIVE
    assert cluster.capacity().nodes == 1
    hub.client.zincrby(hub.keys.nodes, -86_400_000, "node-a")  # a day
    enter("node-b")
    assert [one.name for one in cluster.nodes().items] == ["node-b"]


def test_a_node_that_stops_in_order_is_forgotten(cluster: Cluster, enter: Enter, hub: Hub) -> None:
    enter("node-a").leave()
    assert cluster.nodes().items == ()
    assert hub.client.keys() == []


def test_the_clocks_of_nodes_mean_nothing(cluster: Cluster, enter: Enter) -> None:
    enter("node-a", started=0.0)
    enter("node-b", started=9e9)
    assert {one.status for one in cluster.nodes().items} == {NodeStatus.ALIVE}


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ("{", "no JSON object"),
        ("[1]", "no JSON object"),
        ("[" * 5000, "no JSON object"),
        ('{"v": 9, "state": "ready", "slots": 7, "labels": "x"}', "version 9"),
        ('{"state": null, "slots": [{"name": 3}, 4], "sandbox_level": "high"}', "version None"),
    ],
)
def test_a_record_that_is_garbage_is_named_and_harms_no_other(
    cluster: Cluster, enter: Enter, hub: Hub, record: str, problem: str
) -> None:
    enter("node-a")
    enter("node-b")
    hub.client.hset(hub.keys.node("node-a"), "record", record)
    bad, good = cluster.nodes().items
    assert problem in bad.problem
    assert (bad.status, good.problem) == (NodeStatus.ALIVE, "")


def test_a_node_that_flaps_is_counted_once(cluster: Cluster, enter: Enter) -> None:
    for number in range(20):
        enter("node-a", cpu_offer(), gpu_offer(), instance=f"i{number}")
        offers = (cpu_offer(),) if number % 2 else (gpu_offer(),)
        enter("node-a", *offers, instance=f"i{number}")
    capacity = cluster.capacity()
    assert (capacity.nodes, capacity.kinds["cpu"].slots, capacity.kinds["gpu"].slots) == (1, 1, 0)
    assert cluster.find_nodes({"command": ["true"], **CUDA}).items == ()
    assert [one.name for one in cluster.find_nodes({"command": ["true"]}).items] == ["node-a"]


def test_a_lost_lease_frees_the_slot(records: Records, enter: Enter, cluster: Cluster) -> None:
    enter("node-a")
    job_id = submit(records, max_attempts=3)
    claim(records, job_id)
    run_out(records, job_id)
    claim(records, job_id, node="node-b")  # taken over
    found = cluster.node("node-a")
    assert found is not None
    assert found.busy == 0
    assert cluster.client.hgetall(cluster.keys.holds("node-b")) == {"cpu0": job_id}
    run_out(records, job_id)
    records.upkeep.reap(0)
    assert cluster.client.exists(cluster.keys.holds("node-b"), cluster.keys.busy("cpu")) == 0
    assert try_claim(records, job_id, node="node-a")
    counts = cluster.client.hgetall(cluster.keys.counts("node-a"))
    assert (counts["lost"], counts["claims"]) == ("1", "2")
