"""Handing back, cancelling, expiring, and what a job leaves in Redis."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from tasks import events
from tasks.errors import BrokenRecord, LeaseLost
from tasks.leases import tagged
from tasks.record import Records
from tasks.recorded import NotClaimed, ResultMeta
from tasks.state import FailureReason, JobState
from tests.conftest import Hub
from tests.integration.hub.support import (
    claim,
    finish,
    history,
    messages,
    requeue,
    run_out,
    submit,
    try_claim,
    types,
)

pytestmark = pytest.mark.integration

HOUR_MS = 3_600_000


def in_the_past(records: Records, index: str, job_id: str) -> None:
    """As if the time at which the job is due in ``index`` had come."""
    assert records.client.zadd(index, {job_id: 1}, xx=True, ch=True) == 1


# back to the queue


def test_a_message_that_is_pushed_again_has_a_delivery_tag_of_its_own(records: Records) -> None:
    job_id = submit(records)
    requeue(records, claim(records, job_id))
    again, first = messages(records, job_id)
    assert again["properties"].pop("delivery_tag") != first["properties"].pop("delivery_tag")
    assert again == first


def test_attempts_are_counted_and_the_last_one_fails(records: Records) -> None:
    job_id = submit(records, max_attempts=2)
    assert requeue(records, claim(records, job_id)) is JobState.QUEUED
    assert requeue(records, claim(records, job_id)) is JobState.FAILED
    record = records.get(job_id)
    assert (record.attempt, record.reason, record.message) == (2, "engine_error", "why")
    assert types(records, job_id) == ["queued", "retrying", "failed"]
    assert try_claim(records, job_id) == NotClaimed(
        why="terminal", state=JobState.FAILED, reason="engine_error", message="why"
    )


def test_a_hand_back_is_no_attempt_and_avoids_the_node(records: Records) -> None:
    job_id = submit(records, max_attempts=1)
    for _ in range(3):
        back = {"counts": False, "avoid_node": "node-a", "avoid_ms": HOUR_MS}
        assert requeue(records, claim(records, job_id), **back) is JobState.QUEUED
        assert records.get(job_id).attempt == 0
        found = try_claim(records, job_id)
        assert isinstance(found, NotClaimed)
        assert found.why == "avoided"
        # the node that must not have it lets it go: the message comes again a second later
        assert records.client.zscore(records.keys.delayed, job_id)
        lease = claim(records, job_id, node="node-b")
        assert requeue(records, lease, counts=False) is JobState.QUEUED
        records.client.hset(records.keys.job(job_id), "avoid:node-a", 0)


def test_the_next_attempt_is_told_why_the_last_one_ended(records: Records) -> None:
    job_id = submit(records)
    requeue(records, claim(records, job_id))
    found = try_claim(records, job_id)
    assert not isinstance(found, NotClaimed)
    assert (found.attempt, found.last_reason, found.lease.fence) == (2, "engine_error", 2)


def test_a_job_that_every_living_node_has_handed_back_says_so(records: Records) -> None:
    job_id, nodes = submit(records), records.keys.nodes
    seconds, _ = records.client.time()
    records.client.zadd(nodes, {"node-a": seconds * 1000, "node-b": seconds * 1000})
    records.client.zadd(nodes, {"node-lost": (seconds - 3600) * 1000})

    def handed_back_by(node: str, reason: FailureReason) -> None:
        lease = claim(records, job_id, node=node)
        requeue(records, lease, counts=False, avoid_node=node, avoid_ms=1000, reason=reason)
        records.client.hset(records.keys.job(job_id), f"avoid:{node}", 0)

    def everywhere(node: str) -> str:
        found = try_claim(records, job_id, node=node)
        assert not isinstance(found, NotClaimed)
        requeue(records, found.lease, counts=False)
        return found.handed_back_everywhere

    sandbox, image = FailureReason.SANDBOX_UNAVAILABLE, FailureReason.IMAGE_UNAVAILABLE
    handed_back_by("node-a", sandbox)
    assert everywhere("node-a") == "", "node-b has not had it yet"
    handed_back_by("node-b", image)
    assert everywhere("node-a") == "", "node-b had another reason"
    handed_back_by("node-b", sandbox)
    assert everywhere("node-a") == sandbox
    assert everywhere("node-c") == "", "it has not had it either"


def test_a_node_that_hands_a_job_back_again_is_spared_it_for_longer(records: Records) -> None:
    job_id = submit(records)
    waits = []
    for _ in range(3):
        lease = claim(records, job_id)
        requeue(records, lease, counts=False, avoid_node="node-a", avoid_ms=300_000)
        key = records.keys.job(job_id)
        waits.append(float(records.client.hget(key, "avoid:node-a") or 0))
        records.client.hset(key, "avoid:node-a", 0)
    seconds, _ = records.client.time()
    assert [round(one / 1000 - seconds, -1) for one in waits] == [300, 600, 600]


def test_a_delayed_job_waits_for_the_reaper(records: Records) -> None:
    job_id = submit(records)
    requeue(records, claim(records, job_id), delay_ms=HOUR_MS)
    assert len(messages(records, job_id)) == 1
    assert records.upkeep.reap(0).pushed == 0
    in_the_past(records, records.keys.delayed, job_id)
    assert records.upkeep.reap(0).pushed == 1
    assert records.upkeep.reap(0).pushed == 0
    assert len(messages(records, job_id)) == 2


# cancel


def test_a_queued_job_is_cancelled_at_once_and_never_runs(records: Records) -> None:
    job_id = submit(records)
    assert records.cancel(job_id, "no need") == (True, JobState.CANCELLED)
    assert records.cancel(job_id, "again") == (False, JobState.CANCELLED)
    assert types(records, job_id) == ["queued", "cancelled"]
    found = try_claim(records, job_id)
    assert isinstance(found, NotClaimed)
    assert (found.why, found.message) == ("terminal", "no need")


def test_a_delayed_job_can_be_cancelled(records: Records) -> None:
    job_id = submit(records)
    requeue(records, claim(records, job_id), delay_ms=HOUR_MS)
    assert records.cancel(job_id, "") == (True, JobState.CANCELLED)
    assert not records.client.zscore(records.keys.delayed, job_id)


def test_a_running_job_is_asked_by_its_channel_and_at_each_renewal(records: Records) -> None:
    job_id = submit(records)
    lease = claim(records, job_id)
    with records.client.pubsub() as channel:
        channel.subscribe(records.keys.control("node-a", job_id))
        assert channel.get_message(timeout=5)["type"] == "subscribe"
        assert records.cancel(job_id, "first") == (True, JobState.STARTING)
        assert records.cancel(job_id, "second") == (True, JobState.STARTING)
        order = json.loads(channel.get_message(timeout=5)["data"])
    assert order == {"op": "cancel", "why": "first"}
    assert records.leases.renew(lease, 1000).cancel == "first"


def test_a_job_that_was_to_be_cancelled_is_not_tried_again(records: Records) -> None:
    job_id = submit(records)
    lease = claim(records, job_id)
    records.cancel(job_id, "enough")
    assert requeue(records, lease) is JobState.CANCELLED
    assert types(records, job_id) == ["queued", "cancelled"]


def test_a_lost_job_that_was_to_be_cancelled_is_cancelled(records: Records) -> None:
    by_reaper, by_claim = submit(records), submit(records)
    for job_id in (by_reaper, by_claim):
        claim(records, job_id)
        records.cancel(job_id, "enough")
        run_out(records, job_id)
    found = try_claim(records, by_claim)
    assert isinstance(found, NotClaimed)
    assert (found.why, found.state) == ("cancelled", JobState.CANCELLED)
    assert records.upkeep.reap(0).lost == 1
    assert records.get(by_reaper).state is JobState.CANCELLED


# expiry


def test_a_job_that_was_not_started_in_time_fails(records: Records) -> None:
    by_reaper, by_claim = submit(records, expires_ms=-1), submit(records, expires_ms=-1)
    found = try_claim(records, by_claim)
    assert isinstance(found, NotClaimed)
    assert (found.why, found.reason) == ("expired", "timeout")
    assert records.upkeep.reap(0).expired == 1
    for job_id in (by_reaper, by_claim):
        assert types(records, job_id) == ["queued", "failed"]
        assert records.get(job_id).message == "not started before its expiry"


def test_a_job_that_has_not_expired_runs(records: Records) -> None:
    job_id = submit(records, expires_ms=HOUR_MS)
    assert records.upkeep.reap(0).expired == 0
    lease = claim(records, job_id)
    assert not records.client.zscore(records.keys.expiring, job_id)
    finish(records, lease, events.Succeeded())


def test_a_hand_back_does_not_save_a_job_from_its_expiry(records: Records) -> None:
    job_id = submit(records, expires_ms=HOUR_MS)
    requeue(records, claim(records, job_id), counts=False)
    in_the_past(records, records.keys.expiring, job_id)
    assert records.upkeep.reap(0).expired == 1


def test_a_job_that_has_run_does_not_expire(records: Records) -> None:
    job_id = submit(records, expires_ms=HOUR_MS)
    lease = claim(records, job_id)
    records.leases.publish(lease, [tagged(events.Started())], state=JobState.RUNNING)
    requeue(records, lease)
    assert not records.client.zscore(records.keys.expiring, job_id)
    records.client.hset(records.keys.job(job_id), "expires", 1)
    claim(records, job_id)


# the reaper's script


def test_a_lost_attempt_is_queued_again_by_its_saved_message(records: Records) -> None:
    job_id = submit(records)
    lease = claim(records, job_id)
    run_out(records, job_id)
    assert records.upkeep.reap(0).lost == 1
    assert types(records, job_id) == ["queued", "retrying"]
    assert history(records, job_id)[-1].event == events.Retrying(
        reason="node_lost", message="node node-a did not renew its lease"
    )
    assert len(messages(records, job_id)) == 2
    with pytest.raises(LeaseLost):
        records.leases.renew(lease, 1000)
    assert records.upkeep.reap(0).lost == 0


def test_a_job_that_loses_every_node_fails(records: Records) -> None:
    job_id = submit(records, max_attempts=2)
    for _ in range(2):
        claim(records, job_id)
        run_out(records, job_id)
        assert records.upkeep.reap(0).lost == 1
    record = records.get(job_id)
    assert (record.state, record.reason) == (JobState.FAILED, "node_lost")
    assert records.upkeep.untold() == [job_id]


def test_leases_can_be_left_alone(records: Records) -> None:
    job_id = submit(records)
    lease = claim(records, job_id)
    run_out(records, job_id)
    assert records.upkeep.reap(None).lost == 0
    records.leases.renew(lease, 60_000)
    assert records.upkeep.reap(0).lost == 0


# what is left in Redis


def ends(records: Records) -> list[str]:
    """A job of each ending."""
    done, failed, rejected = (submit(records, user_id="ann") for _ in range(3))
    lease = claim(records, done)
    records.leases.publish(lease, [tagged(events.Log(lines=("x",)))], state=JobState.RUNNING)
    finish(records, lease, events.Succeeded())
    finish(records, claim(records, failed), events.Failed(), state=JobState.FAILED)
    finish(records, claim(records, rejected), events.Rejected(), state=JobState.REJECTED)
    cancelled, stopped = submit(records, user_id="ann"), submit(records)
    records.cancel(cancelled, "")
    lease = claim(records, stopped)
    records.cancel(stopped, "")
    finish(records, lease, events.Cancelled(), state=JobState.CANCELLED)
    exhausted, expired = submit(records, max_attempts=1), submit(records, expires_ms=-1)
    requeue(records, claim(records, exhausted))
    records.upkeep.reap(0)
    return [done, failed, rejected, cancelled, stopped, exhausted, expired]


def ttls(records: Records, job_id: str) -> set[int]:
    keys = records.keys
    found = (records.client.ttl(one(job_id)) for one in (keys.job, keys.history, keys.tail))
    return {ttl for ttl in found if ttl != -2}


def test_a_jobs_keys_get_a_ttl_when_it_ends_and_not_before(records: Records) -> None:
    waiting, running, back = (submit(records) for _ in range(3))
    lease = claim(records, running)
    records.leases.publish(lease, [tagged(events.Log(lines=("x",)))], state=JobState.RUNNING)
    requeue(records, claim(records, back))
    for job_id in (waiting, running, back):
        assert ttls(records, job_id) == {-1}
    for job_id in ends(records):
        assert records.get(job_id).state.terminal
        assert all(0 < ttl <= records.terminal_ttl_s for ttl in ttls(records, job_id))


def test_every_key_has_the_prefix_and_no_index_keeps_an_ended_job(hub: Hub) -> None:
    mine = hub.other(prefix="mine:").records
    left = {*ends(mine)}
    found = {str(key) for key in mine.client.scan_iter(count=1000)}
    assert all(key.startswith("mine:") for key in found)
    unbounded = {key for key in found if mine.client.ttl(key) == -1}
    queue = mine.get(next(iter(left))).queue
    step = mine.client.hget(mine.keys.job(next(iter(left))), "priority")
    assert unbounded == {
        mine.keys.queues,
        mine.keys.untold,  # until Celery is told
        mine.keys.message_list(queue, int(step)),  # nobody popped them in this test
    }
    assert set(mine.client.zrange(mine.keys.untold, 0, -1)) == left
    for job_id in left:
        mine.mark_result_stored(job_id)
    assert not mine.client.exists(mine.keys.untold)


def test_two_prefixes_on_one_redis_do_not_meet(hub: Hub) -> None:
    one, two = hub.other(prefix="one:").records, hub.other(prefix="two:").records
    submit(one, job_id="same")
    submit(two, job_id="same", epochs=2)
    claim(one, "same")
    assert two.get("same").state is JobState.QUEUED


def test_a_users_index_lasts_while_one_of_their_jobs_does(records: Records) -> None:
    index = records.keys.by_user("ann")
    first, second = submit(records, user_id="ann"), submit(records, user_id="ann")
    finish(records, claim(records, first), events.Succeeded())
    assert records.client.ttl(index) == -1
    finish(records, claim(records, second), events.Succeeded())
    assert records.client.ttl(index) > 0
    assert not records.client.exists(records.keys.live)
    third = submit(records, user_id="ann")
    assert records.client.ttl(index) == -1
    records.client.delete(records.keys.job(first))  # as its TTL would
    records.cancel(third, "")
    assert records.client.zrange(index, 0, -1) == [second, third]


def test_an_end_that_nobody_told_is_named_less_and_less_often(records: Records) -> None:
    job_id = submit(records)
    finish(records, claim(records, job_id), events.Succeeded())
    assert records.upkeep.untold() == []  # its worker has 30 s to do it
    clock = records.client.time()[0] * 1000
    for tries in range(1, 10):
        in_the_past(records, records.keys.untold, job_id)
        assert records.upkeep.untold() == [job_id]
        again = records.client.zscore(records.keys.untold, job_id) - clock
        assert abs(again - min(30_000 * 2 ** (tries - 1), HOUR_MS)) < 20_000
    records.client.delete(records.keys.job(job_id))
    in_the_past(records, records.keys.untold, job_id)
    assert records.upkeep.untold() == []
    assert not records.client.exists(records.keys.untold)


def test_an_ended_job_is_told_by_its_message_without_being_queued(records: Records) -> None:
    job_id = submit(records)
    assert not records.retell(job_id)
    finish(records, claim(records, job_id), events.Succeeded())
    records.client.delete(records.keys.message_list(records.get(job_id).queue, 6))
    assert records.retell(job_id)
    assert len(messages(records, job_id)) == 1
    assert not records.client.exists(records.keys.waiting(records.get(job_id).queue))
    records.mark_result_stored(job_id)
    assert not records.retell(job_id)


def test_an_end_of_which_a_step_fails_is_not_taken_for_done(records: Records) -> None:
    """Redis keeps what a script wrote before its error; said again, the end is written."""
    job_id = submit(records)
    lease = claim(records, job_id)
    index = records.keys.by_state("succeeded")
    records.client.set(index, "no sorted set")
    with pytest.raises(BrokenRecord):
        finish(records, lease, events.Succeeded())
    records.client.delete(index)
    assert not records.get(job_id).state.terminal
    finish(records, lease, events.Succeeded())
    assert records.get(job_id).state is JobState.SUCCEEDED
    finish(records, lease, events.Succeeded())  # its answer was lost


def test_what_stands_at_celerys_key_keeps_no_job_from_its_end(records: Records) -> None:
    """Any producer's account may write there."""
    job_id = submit(records)
    records.client.rpush("celery-result", "no string")
    meta = ResultMeta(key="celery-result", value='{"status": "SUCCESS"}', expires_s=60, is_all=True)
    said = [tagged(events.Succeeded())]
    lease = claim(records, job_id)
    given: dict[str, Any] = {"reason": None, "message": "", "result": {}}
    assert not records.leases.finish(lease, JobState.SUCCEEDED, said, meta=meta, **given)
    assert records.get(job_id).state is JobState.SUCCEEDED
    assert records.client.zscore(records.keys.untold, job_id), "Celery is told of it later"
    other = claim(records, submit(records))
    free = replace(meta, key="celery-other")
    assert records.leases.finish(other, JobState.SUCCEEDED, said, meta=free, **given)
    assert records.client.get("celery-other") == meta.value
    assert not records.client.zscore(records.keys.untold, other.job_id)
