"""The scripts of the job record, on a real Redis."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tasks import events
from tasks.errors import JobConflict, LeaseLost, UnknownJob
from tasks.leases import tagged
from tasks.record import Records
from tasks.recorded import Claimed, Lease, NotClaimed
from tasks.state import JobState
from tests.integration.hub.support import (
    claim,
    finish,
    history,
    log,
    messages,
    progress,
    requeue,
    run_out,
    submit,
    try_claim,
    types,
)

pytestmark = pytest.mark.integration


# submit


def test_a_job_is_recorded_once_however_often_it_is_submitted(records: Records) -> None:
    job_id = submit(records, job_id="one", user_id="ann")
    assert submit(records, job_id="one", user_id="ann") == job_id
    record = records.get("one")
    assert (record.state, record.attempt, record.fence) == (JobState.QUEUED, 0, 0)
    assert record.spec == {"command": ["true"], "job_id": "one", "user_id": "ann"}
    assert types(records, "one") == ["queued"]
    assert len(messages(records, "one")) == 1


def test_the_same_id_with_another_config_is_a_conflict(records: Records) -> None:
    submit(records, job_id="one")
    with pytest.raises(JobConflict, match="'one' was submitted before, with another config"):
        submit(records, job_id="one", epochs=2)
    assert types(records, "one") == ["queued"]


def test_an_ended_job_that_is_submitted_again_stays_ended(records: Records) -> None:
    submit(records, job_id="one")
    finish(records, claim(records, "one"), events.Succeeded())
    submit(records, job_id="one")
    assert records.get("one").state is JobState.SUCCEEDED
    assert records.client.ttl(records.keys.job("one")) > 0


def test_a_job_that_nobody_submitted(records: Records) -> None:
    with pytest.raises(UnknownJob, match="'one': it was never submitted"):
        records.get("one")
    with pytest.raises(UnknownJob):
        records.cancel("one", "")
    with pytest.raises(UnknownJob):
        records.ending("one")
    found = try_claim(records, "one")
    assert isinstance(found, NotClaimed)
    assert found.why == "unknown"
    records.mark_result_stored("one")
    assert not records.client.exists(records.keys.job("one"))


# claim


def test_a_claim_takes_the_job_and_acknowledges_its_message(records: Records) -> None:
    job_id = submit(records)
    keys, client = records.keys, records.client
    client.hset(keys.unacked, "tag-1", "[]")
    client.zadd(keys.unacked_index, {"tag-1": 1})
    found = records.leases.claim(
        job_id, owner="me", node="node-a", slot="cpu0", ttl_ms=1000, delivery_tag="tag-1"
    )
    assert isinstance(found, Claimed)
    assert (found.lease.fence, found.attempt, found.last_reason) == (1, 1, "")
    assert json.loads(found.spec)["job_id"] == job_id
    assert not client.exists(keys.unacked, keys.unacked_index)
    record = records.get(job_id)
    assert (record.state, record.node, record.slot) == (JobState.STARTING, "node-a", "cpu0")


def test_the_same_owner_claims_again_with_the_same_answer(records: Records) -> None:
    job_id = submit(records)
    assert try_claim(records, job_id, owner="me") == try_claim(records, job_id, owner="me")


def test_a_job_that_is_held_is_busy_for_everybody_else(records: Records) -> None:
    job_id = submit(records)
    claim(records, job_id)
    found = try_claim(records, job_id)
    assert isinstance(found, NotClaimed)
    assert found.why == "busy"


def test_of_many_who_claim_at_once_one_gets_the_job(records: Records) -> None:
    claimers = 8
    with ThreadPoolExecutor(claimers) as pool:
        for _ in range(30):
            job_id = submit(records)
            together = threading.Barrier(claimers)

            def race(number: int, job: str = job_id, gate: threading.Barrier = together) -> bool:
                gate.wait(10)
                return isinstance(try_claim(records, job, owner=f"o{number}"), Claimed)

            assert sum(pool.map(race, range(claimers))) == 1
            assert records.get(job_id).fence == 1


def test_a_lease_that_ran_out_is_taken_over_and_its_holder_is_fenced(records: Records) -> None:
    job_id = submit(records)
    old = claim(records, job_id)
    records.leases.publish(old, [tagged(events.Started())], state=JobState.RUNNING)
    run_out(records, job_id)
    new = claim(records, job_id, node="node-b")
    assert new.fence == 2
    assert types(records, job_id) == ["queued", "started", "retrying"]
    assert history(records, job_id)[-1].node == "node-a"
    refused(records, old)
    finish(records, new, events.Succeeded())


def test_just_after_its_expiry_a_lease_is_still_left_alone(records: Records) -> None:
    job_id = submit(records)
    claim(records, job_id)
    clock = records.client.time()
    records.client.hset(records.keys.job(job_id), "exp", clock[0] * 1000 - 1000)
    found = try_claim(records, job_id)  # the grace is a quarter of the TTL: 15 s
    assert isinstance(found, NotClaimed)
    assert found.why == "busy"


def test_the_last_attempt_is_not_taken_over(records: Records) -> None:
    job_id = submit(records, max_attempts=1)
    claim(records, job_id)
    run_out(records, job_id)
    found = try_claim(records, job_id)
    assert isinstance(found, NotClaimed)
    assert (found.why, found.state, found.reason) == ("exhausted", JobState.FAILED, "node_lost")
    assert "node-a did not renew its lease in attempt 1, the last one" in found.message


# fences


def refused(records: Records, lease: Lease) -> None:
    """Whatever the holder of ``lease`` writes is refused and changes nothing."""
    job = records.keys.job(lease.job_id)
    before = (records.client.hgetall(job), types(records, lease.job_id))
    with pytest.raises(LeaseLost):
        records.leases.renew(lease, 1000)
    with pytest.raises(LeaseLost):
        records.leases.publish(lease, [tagged(progress(1))], snapshot={"progress": "{}"})
    with pytest.raises(LeaseLost):
        finish(records, lease, events.Succeeded())
    with pytest.raises(LeaseLost):
        requeue(records, lease)
    assert (records.client.hgetall(job), types(records, lease.job_id)) == before


@pytest.mark.parametrize("wrong", [{"owner": "x"}, {"fence": 2}, {"fence": 0}])
def test_another_owner_or_fence_is_refused_everywhere(
    records: Records, wrong: dict[str, Any]
) -> None:
    job_id = submit(records)
    lease = claim(records, job_id, owner="me")
    right = {"owner": lease.owner, "fence": lease.fence}
    refused(records, Lease(job_id=job_id, **{**right, **wrong}))
    records.leases.renew(lease, 1000)


def test_nobody_holds_a_queued_job(records: Records) -> None:
    refused(records, Lease(job_id=submit(records), owner="", fence=0))


def test_a_finish_may_be_said_twice_and_writes_once(records: Records) -> None:
    job_id = submit(records)
    lease = claim(records, job_id)
    finish(records, lease, events.Succeeded())
    finish(records, lease, events.Failed(), state=JobState.FAILED)
    assert types(records, job_id) == ["queued", "succeeded"]
    assert records.get(job_id).state is JobState.SUCCEEDED
    with pytest.raises(LeaseLost):
        records.leases.renew(lease, 1000)
    with pytest.raises(LeaseLost):
        records.leases.publish(lease, [tagged(progress(1))])


def test_a_requeue_may_be_said_twice_and_pushes_once(records: Records) -> None:
    job_id = submit(records)
    lease = claim(records, job_id)
    assert requeue(records, lease) is JobState.QUEUED
    assert requeue(records, lease) is JobState.QUEUED
    assert len(messages(records, job_id)) == 2  # the first was never popped in this test
    other = claim(records, job_id)
    assert requeue(records, lease) is JobState.STARTING
    records.leases.renew(other, 1000)


def test_a_job_ends_in_a_terminal_state_only(records: Records) -> None:
    lease = claim(records, submit(records))
    with pytest.raises(ValueError, match="cannot end as running"):
        finish(records, lease, state=JobState.RUNNING)


# publish


def test_numbers_have_no_gaps_whoever_publishes(records: Records) -> None:
    job_id = submit(records)
    lease = claim(records, job_id)

    def flood(number: int) -> None:
        for index in range(20):
            records.leases.publish(lease, [tagged(log(f"{number}.{index}"))] * 3)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(flood, range(4)))
    finish(records, lease, events.Succeeded())
    assert [one.seq for one in history(records, job_id)] == list(range(1, 243))
    assert records.get(job_id).seq == 242


def test_a_batch_that_was_there_before_is_not_written_again(records: Records) -> None:
    job_id = submit(records)
    lease = claim(records, job_id)
    first = records.leases.publish(lease, [tagged(progress(1))], batch=1)
    assert records.leases.publish(lease, [tagged(progress(1))], batch=1) == first
    assert records.leases.publish(lease, [tagged(progress(2))], batch=2) == first + 1
    assert types(records, job_id) == ["queued", "progress", "progress"]


def test_batches_count_anew_in_each_attempt(records: Records) -> None:
    job_id = submit(records)
    lease = claim(records, job_id)
    records.leases.publish(lease, [tagged(progress(1))], batch=7)
    requeue(records, lease)
    lease = claim(records, job_id)
    records.leases.publish(lease, [tagged(progress(2))], batch=1)
    assert types(records, job_id).count("progress") == 2


def test_a_state_that_may_not_follow_is_refused_with_its_events(records: Records) -> None:
    job_id = submit(records)
    lease = claim(records, job_id)
    with pytest.raises(ValueError, match="cannot go from starting to paused"):
        records.leases.publish(lease, [tagged(events.Paused())], state=JobState.PAUSED)
    assert types(records, job_id) == ["queued"]
    for state in (JobState.RUNNING, JobState.PAUSED, JobState.RUNNING, JobState.RUNNING):
        records.leases.publish(lease, [tagged(events.Resumed())], state=state)
        assert records.get(job_id).state is state


def test_one_round_trip_writes_snapshot_history_and_channel(records: Records) -> None:
    job_id = submit(records)
    lease = claim(records, job_id)
    with records.client.pubsub() as channel:
        channel.subscribe(records.keys.events(job_id))
        assert channel.get_message(timeout=5)["type"] == "subscribe"
        said = events.encode(progress(3))
        records.leases.publish(
            lease, [tagged(progress(3)), tagged(log("x"))], snapshot={"progress": said}
        )
        message = channel.get_message(timeout=5)["data"]
    stored = history(records, job_id)[1:]
    assert [events.decode(text) for text in message.split("\n")] == stored
    assert records.get(job_id).progress["epoch"] == 3
    assert {(one.attempt, one.node, one.slot) for one in stored} == {(1, "node-a", "cpu0")}


def test_the_tail_is_capped_in_events_and_the_history_is_not(records: Records) -> None:
    job_id = submit(records)
    lease = claim(records, job_id)
    for _ in range(30):
        records.leases.publish(lease, [tagged(events.Paused()), *[tagged(progress(1))] * 100])
    assert records.client.xlen(records.keys.history(job_id)) == 31
    assert 2000 <= records.client.xlen(records.keys.tail(job_id)) <= 2200
    assert history(records, job_id)[-1].seq == 1 + 30 * 101


def test_the_tail_is_capped_in_bytes(records: Records) -> None:
    job_id = submit(records)
    lease = claim(records, job_id)
    for index in range(100):
        records.leases.publish(lease, [tagged(log(f"{index} " + "x" * 150_000))])
    tail = records.keys.tail(job_id)
    rows = records.client.xrange(tail)
    kept = sum(len(row["e"]) for _, row in rows)
    assert 3 * 2**20 < kept <= 4 * 2**20
    assert records.client.memory_usage(tail) < 6 * 2**20
    assert int(records.client.hget(records.keys.job(job_id), "tail_bytes")) == kept
    assert rows[-1][1]["e"].count("99 xx") == 1
