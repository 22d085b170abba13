"""Which nodes could serve a job, what is missing where none can, and why a job waits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tasks.choices import Device
from tasks.cluster import Cluster, NodeStatus
from tasks.errors import InvalidJob, UnknownJob
from tasks.events import Queued
from tasks.keys import Keys
from tasks.ladders import SandboxClass
from tasks.needs import needs_of
from tasks.record import Records
from tasks.routing import QueueClass, direct_queue
from tasks.state import FailureReason
from tests.integration.hub.support import CUDA, Enter, claim, history, job_config, status, submit
from tests.support.fleet import cpu_offer, gpu_offer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration


def missing(records: Records, job_id: str) -> str:
    """As the job's first event says."""
    event = history(records, job_id)[0].event
    assert isinstance(event, Queued)
    return event.missing


def test_find_nodes(cluster: Cluster, enter: Enter) -> None:
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


def test_find_nodes_in_pages_misses_none(cluster: Cluster, enter: Enter) -> None:
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
    records: Records, enter: Enter, cluster: Cluster
) -> None:
    nobody = submit(records, needing=True, **CUDA)
    assert missing(records, nobody).startswith("no live node gives 1 cuda GPU of 24000 MB")
    enter("node-a")
    assert missing(records, submit(records, needing=True, **CUDA)) == "no live node has a cuda GPU"
    enter("node-b", replace(gpu_offer(), gpu_memory_mb=8_000))
    said = missing(records, submit(records, needing=True, **CUDA))
    assert said == "no live node has 24000 MB of GPU memory for one job"
    said = missing(records, submit(records, needing=True, required_device="cuda", gpus=4))
    assert said == "no live node has a slot of 4 cuda GPUs"
    said = missing(records, submit(records, needing=True, pool="lab-a"))
    assert said == "no live node of pool lab-a can take it"
    said = missing(records, submit(records, needing=True, sandbox="gvisor"))
    assert said == "no live node can confine it by gVisor"
    enter("node-c", gpu_offer())
    assert missing(records, submit(records, needing=True, **CUDA)) == ""
    assert cluster.explain(nobody).missing == ""


def test_what_only_natively_trusted_nodes_have_is_named(records: Records, enter: Enter) -> None:
    enter("node-a", cpu_offer(sandboxes=frozenset({SandboxClass.OPTIONAL})))
    assert missing(records, submit(records, needing=True)) == "no live node can confine it"


def test_a_node_that_is_lost_serves_nobody(
    records: Records, enter: Enter, cluster: Cluster
) -> None:
    enter("node-a", ttl_ms=40)
    wait_until(lambda: status(cluster, "node-a") is NodeStatus.LOST)
    assert missing(records, submit(records, needing=True)) != ""
    assert cluster.find_nodes({"command": ["true"]}).items == ()
    assert cluster.capacity().kinds["cpu"].slots == 0


def test_explain_a_waiting_job(records: Records, enter: Enter, cluster: Cluster) -> None:
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
    records: Records, enter: Enter, cluster: Cluster
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


def test_explain_a_job_that_was_tried(records: Records, enter: Enter, cluster: Cluster) -> None:
    enter("node-a")
    job_id = submit(records, max_attempts=3)
    lease = claim(records, job_id)
    assert cluster.explain(job_id).why == "it starts on node-a/cpu0"
    records.leases.requeue(
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
    records.leases.requeue(
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


def test_explain_a_job_for_one_node(records: Records, enter: Enter, cluster: Cluster) -> None:
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
