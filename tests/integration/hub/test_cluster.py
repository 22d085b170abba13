"""The cluster as `tasks.cluster` sees it, on a real Redis; its nodes are entries there, no more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tasks.choices import Device
from tasks.cluster import Cluster, NodeStatus
from tasks.errors import InvalidJob, UnknownJob
from tasks.events import Queued, Succeeded
from tasks.keys import Keys
from tasks.ladders import SandboxClass
from tasks.needs import needs_of
from tasks.record import Records
from tasks.routing import QueueClass, direct_queue, route
from tasks.state import FailureReason, JobState
from tasks.usage import day_number, today
from tests.conftest import Hub
from tests.integration.hub.support import (
    claim,
    finish,
    history,
    job_config,
    run_out,
    submit,
    try_claim,
)
from tests.support.fleet import PaperNode, cpu_offer, gpu_offer, node
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

Node = Callable[..., PaperNode]
CUDA = {"required_device": "cuda", "gpus": 1, "gpu_memory_mb": 20_000}


@pytest.fixture
def records(hub: Hub) -> Records:
    return hub.records


@pytest.fixture
def cluster(hub: Hub) -> Cluster:
    return Cluster(hub.client, hub.keys)


@pytest.fixture
def enter(hub: Hub) -> Node:
    def enter(name: str, *offers: Any, **how: Any) -> PaperNode:
        return node(hub.client, hub.keys, name, *offers, **how)

    return enter


def submit_needing(records: Records, **fields: Any) -> str:
    """Record a job as `JobAMQP` does, with what it needs; its id."""
    job = job_config(**fields)
    assert job.job_id is not None
    way = route(job)
    records.submit(
        job_id=job.job_id,
        spec=job.canonical(),
        queue=way.queue,
        priority_step=way.priority_step,
        user_id=job.user_id,
        max_attempts=1,
        expires_ms=0,
        message="",
        needs=needs_of(way.queue),
    )
    return job.job_id


def missing(records: Records, job_id: str) -> str:
    """As the job's first event says."""
    event = history(records, job_id)[0].event
    assert isinstance(event, Queued)
    return event.missing


# nodes


def test_nodes_come_by_name_in_pages(cluster: Cluster, enter: Node) -> None:
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


def test_a_node_says_who_holds_its_slots(cluster: Cluster, enter: Node, records: Records) -> None:
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
    cluster: Cluster, enter: Node, hub: Hub
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


def status(cluster: Cluster, name: str) -> NodeStatus | None:
    found = cluster.node(name)
    return found and found.status


def test_a_node_that_stops_in_order_is_forgotten(cluster: Cluster, enter: Node, hub: Hub) -> None:
    enter("node-a").leave()
    assert cluster.nodes().items == ()
    assert hub.client.keys() == []


def test_the_clocks_of_nodes_mean_nothing(cluster: Cluster, enter: Node) -> None:
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
    cluster: Cluster, enter: Node, hub: Hub, record: str, problem: str
) -> None:
    enter("node-a")
    enter("node-b")
    hub.client.hset(hub.keys.node("node-a"), "record", record)
    bad, good = cluster.nodes().items
    assert problem in bad.problem
    assert (bad.status, good.problem) == (NodeStatus.ALIVE, "")


def test_a_node_that_flaps_is_counted_once(cluster: Cluster, enter: Node) -> None:
    for number in range(20):
        enter("node-a", cpu_offer(), gpu_offer(), instance=f"i{number}")
        offers = (cpu_offer(),) if number % 2 else (gpu_offer(),)
        enter("node-a", *offers, instance=f"i{number}")
    capacity = cluster.capacity()
    assert (capacity.nodes, capacity.kinds["cpu"].slots, capacity.kinds["gpu"].slots) == (1, 1, 0)
    assert cluster.find_nodes({"command": ["true"], **CUDA}).items == ()
    assert [one.name for one in cluster.find_nodes({"command": ["true"]}).items] == ["node-a"]


# who can serve what


def test_find_nodes(cluster: Cluster, enter: Node) -> None:
    enter("node-a", gpu_offer(), cpu_offer())
    enter("node-b", replace(gpu_offer(), gpu_memory_mb=8_000))
    enter("node-c", gpu_offer(pool="lab-a"))
    enter("node-d", replace(gpu_offer(), width=4))

    def named(**fields: Any) -> set[str]:
        found = cluster.find_nodes({"command": ["true"], "required_device": "cuda", **fields})
        return {one.name for one in found.items}

    assert named(gpus=1) == {"node-a", "node-b"}
    assert named(gpus=1, gpu_memory_mb=20_000) == {"node-a"}
    assert named(gpus=1, pool="lab-a") == {"node-c"}
    assert named(gpus=4) == {"node-d"}
    assert named(gpus=2) == set()
    with pytest.raises(InvalidJob):
        cluster.find_nodes({"command": ["true"], "no_such_field": 1})


def test_find_nodes_in_pages_misses_none(cluster: Cluster, enter: Node) -> None:
    nodes = [enter(f"node-{number}") for number in range(7)]
    found, after = [], ""
    while True:
        page = cluster.find_nodes({"command": ["true"]}, limit=2, after=after)
        found += [one.name for one in page.items]
        nodes[0].beat()  # it moves in the order meanwhile
        if not page.next:
            break
        after = page.next
    assert set(found) == {f"node-{number}" for number in range(7)}
    with pytest.raises(ValueError, match="no place"):
        cluster.find_nodes({"command": ["true"]}, after="x")


def test_a_job_that_no_live_node_can_serve_says_what_is_missing(
    records: Records, enter: Node, cluster: Cluster
) -> None:
    nobody = submit_needing(records, **CUDA)
    assert missing(records, nobody).startswith("no live node gives 1 cuda GPU of 24000 MB")
    enter("node-a")
    assert missing(records, submit_needing(records, **CUDA)) == "no live node has a cuda GPU"
    enter("node-b", replace(gpu_offer(), gpu_memory_mb=8_000))
    said = missing(records, submit_needing(records, **CUDA))
    assert said == "no live node has 24000 MB of GPU memory for one job"
    said = missing(records, submit_needing(records, required_device="cuda", gpus=4))
    assert said == "no live node has a slot of 4 cuda GPUs"
    said = missing(records, submit_needing(records, pool="lab-a"))
    assert said == "no live node of pool lab-a can take it"
    said = missing(records, submit_needing(records, sandbox="gvisor"))
    assert said == "no live node can confine it by gVisor"
    enter("node-c", gpu_offer())
    assert missing(records, submit_needing(records, **CUDA)) == ""
    assert cluster.explain(nobody).missing == ""


def test_what_only_natively_trusted_nodes_have_is_named(records: Records, enter: Node) -> None:
    enter("node-a", cpu_offer(sandboxes=frozenset({SandboxClass.OPTIONAL})))
    assert missing(records, submit_needing(records)) == "no live node can confine it"


def test_a_node_that_is_lost_serves_nobody(records: Records, enter: Node, cluster: Cluster) -> None:
    enter("node-a", ttl_ms=40)
    wait_until(lambda: status(cluster, "node-a") is NodeStatus.LOST)
    assert missing(records, submit_needing(records)) != ""
    assert cluster.find_nodes({"command": ["true"]}).items == ()
    assert cluster.capacity().kinds["cpu"].slots == 0


# explain


def test_explain_a_waiting_job(records: Records, enter: Node, cluster: Cluster) -> None:
    job_id = submit(records)
    found = cluster.explain(job_id)
    assert "it waits for a node that can serve it" in found.why
    assert (found.servers, found.nodes) == (0, ())
    enter("node-a")
    enter("node-b")
    found = cluster.explain(job_id)
    assert (found.place, found.length, found.servers, found.missing) == (1, 1, 2, "")
    assert (found.nodes, found.needs.split(",")[0]) == (("node-a", "node-b"), "a slot")
    assert found.why == "it is the next one: it waits for a free slot"


def test_the_place_in_the_line_is_by_priority_then_time(
    records: Records, enter: Node, cluster: Cluster
) -> None:
    enter("node-a")
    priorities = ("low", "normal", "high", "normal")
    # of two that came within one millisecond the lesser id is first
    order = [
        submit(records, priority=one, job_id=f"job-{number}")
        for number, one in enumerate(priorities)
    ]
    last = submit(records, priority="critical")
    places = [cluster.explain(job_id).place for job_id in (*order, last)]
    assert places == [5, 3, 2, 4, 1]
    records.cancel(last, "")
    claim(records, order[2])
    assert [cluster.explain(job_id).place for job_id in (order[1], order[3], order[0])] == [1, 2, 3]


def test_explain_a_job_that_was_tried(records: Records, enter: Node, cluster: Cluster) -> None:
    enter("node-a")
    job_id = submit(records, max_attempts=3)
    lease = claim(records, job_id)
    assert cluster.explain(job_id).why == "it starts on node-a/cpu0"
    records.requeue(
        lease,
        [],
        reason=FailureReason.ENGINE_ERROR,
        message="the engine is down",
        delay_ms=0,
        counts=False,
        avoid_node="node-a",
        avoid_ms=30_000,
    )
    found = cluster.explain(job_id)
    assert found.avoids == ("node-a",)
    assert "each node that could serve it has handed it back" in found.why
    assert found.why.endswith("before: engine_error: the engine is down")
    enter("node-b")
    assert "next one" in cluster.explain(job_id).why
    cluster.client.zrem(cluster.keys.serving(found.queue), "node-a")
    assert "next one" in cluster.explain(job_id).why, "node-a is gone, and node-b never had it"
    lease = claim(records, job_id, node="node-b")
    records.requeue(
        lease,
        [],
        reason=FailureReason.INTERNAL,
        message="again",
        delay_ms=20_000,
        counts=True,
    )
    found = cluster.explain(job_id)
    assert 10 < found.starts_in_seconds <= 20
    assert "tried again in" in found.why
    records.cancel(job_id, "no more")
    assert cluster.explain(job_id).why == "it is over: cancelled, no more"
    with pytest.raises(UnknownJob):
        cluster.explain("nobody")


def test_explain_a_job_for_one_node(records: Records, enter: Node, cluster: Cluster) -> None:
    queue = direct_queue("node-a")
    records.submit(
        job_id="mine",
        spec=job_config(job_id="mine").canonical(),
        queue=queue,
        priority_step=6,
        user_id="",
        max_attempts=1,
        expires_ms=0,
        message="",
        needs=needs_of(queue),
    )
    assert missing(records, "mine") == "node node-a is not there, or takes no jobs"
    assert cluster.explain("mine").needs == "node node-a"
    enter("node-a")
    assert (cluster.explain("mine").missing, cluster.explain("mine").nodes) == ("", ("node-a",))


# queues, states, users


def test_queues_tell_of_the_oldest_and_of_who_reads_them(
    records: Records, enter: Node, cluster: Cluster
) -> None:
    # of two that came within one millisecond the lesser id is first
    first = submit(records, job_id="job-1")
    submit(records, job_id="job-2")
    gpu = submit(records, **CUDA)
    enter("node-a")
    gpus, cpus = cluster.queues().items
    assert (gpus.waiting, gpus.oldest, gpus.servers) == (1, gpu, 0)
    assert gpus.needs.startswith("1 cuda GPU of 24000 MB")
    assert (cpus.waiting, cpus.oldest, cpus.servers) == (2, first, 1)
    assert 0 <= cpus.oldest_seconds < 60
    page = cluster.queues(limit=1)
    assert [one.name for one in page.items] == [gpus.name]
    assert [one.name for one in cluster.queues(limit=1, after=page.next).items] == [cpus.name]


def test_states_users_and_jobs(records: Records, cluster: Cluster) -> None:
    mine = [submit(records, user_id="ann") for _ in range(3)]
    submit(records, user_id="bob")
    finish(records, claim(records, mine[0]), Succeeded())
    claim(records, mine[1])
    states = cluster.states()
    assert {state: count for state, count in states.items() if count} == {
        JobState.QUEUED: 2,
        JobState.STARTING: 1,
        JobState.SUCCEEDED: 1,
    }
    assert dict(cluster.users().items) == {"ann": 2, "bob": 1}
    page = cluster.jobs(user_id="ann", limit=2)
    rest = cluster.jobs(user_id="ann", after=page.next)
    assert (len(page.items), len(rest.items), rest.next) == (2, 1, "")
    assert {one.job_id for one in (*page.items, *rest.items)} == set(mine)
    capacity = cluster.capacity()
    assert (capacity.waiting, capacity.running) == (2, 1)


def test_ten_thousand_queued_jobs_are_all_there(
    records: Records, enter: Node, cluster: Cluster
) -> None:
    enter("node-a")
    spec, queue = job_config(job_id="x").canonical(), route(job_config()).queue
    for number in range(10_000):
        records.submit(
            job_id=f"job-{number}",
            spec=spec,
            queue=queue,
            priority_step=6,
            user_id="ann",
            max_attempts=1,
            expires_ms=0,
            message="",
        )
    (view,) = cluster.queues().items
    assert (view.waiting, view.oldest, view.servers) == (10_000, "job-0", 1)
    found = cluster.explain("job-9999")
    assert (found.place > 9_900, found.length) == (True, 10_000), "by the ms of its submission"
    assert cluster.capacity().waiting == 10_000
    seen, after = set[str](), ""
    while True:
        page = cluster.jobs(user_id="ann", limit=1_000, after=after)
        seen |= {one.job_id for one in page.items}
        if not page.next:
            break
        after = page.next
    assert len(seen) == 10_000
    claim(records, "job-0")
    assert cluster.queues().items[0].waiting == 9_999


# usage


def test_usage_is_counted_by_renewals_and_ends(
    records: Records, cluster: Cluster, hub: Hub
) -> None:
    def back(job_id: str, seconds: int) -> None:
        """As if what is not counted yet had begun so long ago."""
        hub.client.hincrby(hub.keys.job(job_id), "counted", -seconds * 1000)

    def claimed(job_id: str, gpus: int) -> Any:
        return records.claim(
            job_id,
            owner=f"o-{job_id}",
            node="node-a",
            slot=f"gpu{gpus}",
            ttl_ms=60_000,
            delivery_tag="",
            gpus=gpus,
        ).lease

    one, two = submit(records, user_id="ann"), submit(records, user_id="bob")
    first, second = claimed(one, 4), claimed(two, 0)
    back(one, 100)
    records.renew(first, 60_000)
    back(one, 50)
    finish(records, first, Succeeded())
    back(two, 30)
    run_out(records, two)
    records.reap(0)  # a node that vanished: nothing after its last renewal is counted
    day = today(hub.client)
    rows = {used.user_id: used for used in cluster.usage(day - timedelta(days=2), day)}
    assert rows.keys() == {"ann"}
    assert 150 <= rows["ann"].slot_seconds < 160
    assert 600 <= rows["ann"].gpu_seconds < 640
    assert list(cluster.usage(day, day, user_id="bob")) == []
    assert [used.user_id for used in cluster.usage(day, day, user_id="ann")] == ["ann"]
    assert hub.client.ttl(hub.keys.usage(day_number(day))) > 300 * 86_400
    finish(records, claimed(two, 0), Succeeded())
    with pytest.raises(ValueError, match="1 to 400 days"):
        list(cluster.usage(day, day - timedelta(days=1)))
    del second


# what is left behind


def test_a_lost_lease_frees_the_slot(records: Records, enter: Node, cluster: Cluster) -> None:
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
    records.reap(0)
    assert cluster.client.exists(cluster.keys.holds("node-b"), cluster.keys.busy("cpu")) == 0
    assert try_claim(records, job_id, node="node-a")
    counts = cluster.client.hgetall(cluster.keys.counts("node-a"))
    assert (counts["lost"], counts["claims"]) == ("1", "2")


def test_classes_in_words() -> None:
    wanted = QueueClass(
        device=Device.CUDA,
        sandbox=SandboxClass.GVISOR,
        memory_mb=24_000,
        width=2,
        pool="lab-a",
    )
    assert needs_of(wanted.name).otherwise == (
        "no live node gives 2 cuda GPUs of 24000 MB, confined by gVisor, in pool lab-a"
    )
    assert needs_of("slot.node-a.cpu0").otherwise.startswith("node node-a ")
    assert Keys(prefix="t:").serving(wanted.name).startswith("t:serving:work.")
