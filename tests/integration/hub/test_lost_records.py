"""What becomes of jobs whose records Redis has lost, or has as they once were."""

from __future__ import annotations

from typing import Any

import pytest

from tasks import events
from tasks.errors import LeaseLost, RecordGone
from tasks.leases import tagged
from tasks.record import Records
from tasks.recorded import Claimed, NotClaimed
from tasks.state import FailureReason, JobState
from tests.integration.hub.support import (
    RESUMED,
    TTL_MS,
    claim,
    finish,
    history,
    messages,
    restore,
    submit,
    try_claim,
    types,
)

pytestmark = pytest.mark.integration

RETRYING = tagged(events.Retrying(reason="node_lost"))


def claimed(records: Records, job_id: str = "one", **how: Any) -> Claimed:
    """A claim that must succeed; its message is delivered by it, as by kombu."""
    found = try_claim(records, job_id, **how)
    assert isinstance(found, Claimed), found
    queue, step = records.client.hmget(records.keys.job(job_id), "queue", "priority")
    records.client.delete(records.keys.message_list(str(queue), int(str(step))))
    return found


def requeue(records: Records, claim: Claimed, **how: Any) -> JobState:
    given: dict[str, Any] = {"delay_ms": 0, "counts": True, "message": "", **how}
    reason = FailureReason.NODE_LOST
    return records.leases.requeue(claim.lease, [RETRYING], reason=reason, **given)


def test_a_record_that_is_written_again_has_its_message(records: Records) -> None:
    submit(records, job_id="one", user_id="ann")
    held = claimed(records)
    records.client.flushall()
    restore(records, held)
    assert records.leases.adopt(held.lease, TTL_MS, former=()).has_message
    assert requeue(records, held) is JobState.QUEUED
    (message,) = messages(records, "one")
    assert message["headers"]["id"] == "one"
    assert message["properties"]["delivery_tag"] != held.message_tag, "no copy has the same tag"
    again = claimed(records)
    assert (again.attempt, again.lease.fence, again.spec) == (2, 2, held.spec)


def test_what_a_stray_message_says_is_kept_for_a_record_that_has_none(records: Records) -> None:
    """As one that a version before this one has written again."""
    submit(records, job_id="one")
    client, keys = records.client, records.keys
    held = claimed(records)
    client.hset(keys.job("one"), mapping={"message": "", "tag": ""})
    client.hset(keys.unacked, held.message_tag, f'[{held.message}, "", "q.any"]')
    busy = records.leases.claim(
        "one",
        owner="b",
        node="node-b",
        slot="cpu0",
        ttl_ms=TTL_MS,
        delivery_tag=held.message_tag,
    )
    assert isinstance(busy, NotClaimed)
    assert busy.why == "busy"
    assert not client.exists(keys.unacked)
    requeue(records, held)
    assert len(messages(records, "one")) == 1


@pytest.mark.parametrize("delay_ms", [0, 1], ids=["at once", "later"])
def test_a_job_without_a_message_fails_rather_than_wait_for_ever(
    records: Records, delay_ms: int
) -> None:
    submit(records, job_id="one")
    held = claimed(records)
    records.client.hset(records.keys.job("one"), mapping={"message": "", "tag": ""})
    requeue(records, held, delay_ms=delay_ms)
    if delay_ms:
        due = records.client.time()
        records.client.zadd(records.keys.delayed, {"one": due[0] * 1000 - 1}, xx=True)
        assert records.upkeep.reap(0).pushed == 0
    record = records.get("one")
    assert (record.state, record.reason) == (JobState.FAILED, "internal")
    assert "submit it again" in record.message
    assert types(records, "one") == ["queued", "retrying", "failed"]
    assert "one" in records.upkeep.untold(), "the reaper tells Celery"
    assert not records.client.exists(records.keys.waiting(record.queue))


def test_a_waiting_job_whose_message_is_unknown_fails_when_it_is_missed(records: Records) -> None:
    submit(records, job_id="one")
    client, keys = records.client, records.keys
    client.hset(keys.job("one"), mapping={"message": "", "tag": ""})
    since = client.zscore(keys.waiting(records.get("one").queue), "one")
    assert not records.upkeep.repush("one", str(int(float(str(since)))))
    assert records.get("one").reason == "internal"


def as_before_the_claim(records: Records, before: dict[str, str]) -> None:
    """What the replica knew that is the primary now."""
    client, keys = records.client, records.keys
    client.delete(keys.job("one"))
    client.hset(keys.job("one"), mapping=before)
    client.zrem(keys.leases, "one")
    client.zrem(keys.by_state("starting"), "one")
    client.zadd(keys.by_state("queued"), {"one": 1})
    client.zadd(keys.waiting(before["queue"]), {"one": 1})


def test_a_claim_that_a_failover_lost_is_written_again(records: Records) -> None:
    submit(records, job_id="one")
    before = records.client.hgetall(records.keys.job("one"))
    held = claimed(records)
    as_before_the_claim(records, before)  # type: ignore[arg-type]  # no client of asyncio's
    for say in (
        lambda: records.leases.renew(held.lease, TTL_MS),
        lambda: records.leases.publish(held.lease, [RESUMED]),
        lambda: finish(records, held.lease, events.Succeeded()),
    ):
        with pytest.raises(RecordGone):
            say()
    restore(records, held, seq=7)
    record = records.get("one")
    assert (record.state, record.fence, record.attempt) == (JobState.RUNNING, 1, 1)
    assert not records.client.exists(records.keys.waiting(record.queue))
    stray = try_claim(records, "one", node="node-b")
    assert isinstance(stray, NotClaimed)
    assert stray.why == "busy"
    assert history(records, "one")[-1].seq == 8
    finish(records, held.lease, events.Succeeded())
    assert records.get("one").state is JobState.SUCCEEDED


def test_whoever_has_claimed_it_meanwhile_keeps_it(records: Records) -> None:
    submit(records, job_id="one")
    before = records.client.hgetall(records.keys.job("one"))
    held = claimed(records)
    as_before_the_claim(records, before)  # type: ignore[arg-type]  # no client of asyncio's
    other = claim(records, "one", node="node-b")
    assert other.fence == held.lease.fence
    with pytest.raises(LeaseLost):
        restore(records, held)
    with pytest.raises(LeaseLost):
        records.leases.renew(held.lease, TTL_MS)
    assert records.leases.renew(other, TTL_MS).cancel == ""
    assert records.get("one").node == "node-b"


def test_an_end_that_a_failover_kept_is_not_undone(records: Records) -> None:
    """It lost the claim, and the job was cancelled in the queue since."""
    submit(records, job_id="one")
    before = records.client.hgetall(records.keys.job("one"))
    held = claimed(records)
    as_before_the_claim(records, before)  # type: ignore[arg-type]  # no client of asyncio's
    records.cancel("one", "not wanted")
    with pytest.raises(LeaseLost):
        restore(records, held)
    assert records.get("one").state is JobState.CANCELLED


def test_what_nobody_knows_is_queued_again_once_nobody_can_run_it(records: Records) -> None:
    submit(records, job_id="one", user_id="ann")
    held = claimed(records)
    records.client.flushall()
    restore(records, held, event=RETRYING, queue_in_ms=60_000)
    record = records.get("one")
    assert (record.state, record.fence, record.attempt) == (JobState.QUEUED, 1, 0)
    assert not messages(records, "one")
    assert records.upkeep.reap(0).pushed == 0, "not before its time"
    now = records.client.time()[0] * 1000
    assert now + 30_000 < (records.client.zscore(records.keys.delayed, "one") or 0) <= now + 62_000
    records.client.zadd(records.keys.delayed, {"one": now - 1})
    assert records.upkeep.reap(0).pushed == 1
    assert len(messages(records, "one")) == 1
    again = claimed(records)
    assert (again.attempt, again.lease.fence) == (1, 2), "an outage is no attempt"


def test_nobody_queues_what_another_node_runs(records: Records) -> None:
    """The first was cut off, the second was given the job; Redis forgot, and both came back."""
    submit(records, job_id="one")
    first = claimed(records)
    requeue(records, first)
    second = claimed(records, node="node-b")
    records.client.flushall()
    restore(records, second)
    with pytest.raises(LeaseLost):
        restore(records, first, event=RETRYING, queue_in_ms=60_000)
    records.client.flushall()
    restore(records, first, event=RETRYING, queue_in_ms=60_000)  # and the other way round
    restore(records, second)
    record = records.get("one")
    assert (record.state, record.fence) == (JobState.RUNNING, 2)
    assert not records.client.exists(records.keys.delayed)


def test_counts_and_summons_of_a_node_that_is_gone_have_an_end(records: Records) -> None:
    submit(records, job_id="one")
    held = claimed(records)
    client, keys = records.client, records.keys
    client.delete(keys.counts("node-a"))  # as it does when it leaves
    records.leases.publish(held.lease, [RESUMED])
    assert 0 < client.ttl(keys.counts("node-a")) <= 86_400
    assert records.leases.summon(held.lease, "slot.node-a.cpu0")
    where = keys.message_list("slot.node-a.cpu0", 0)
    assert client.llen(where) == 1
    assert 0 < client.ttl(where) <= 3_600
