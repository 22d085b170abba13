"""Handing back, cancelling, expiring, and what the reaper's script makes of it."""

from __future__ import annotations

import json

import pytest

from tasks import events
from tasks.errors import LeaseLost
from tasks.leases import tagged
from tasks.record import Records
from tasks.recorded import NotClaimed
from tasks.state import FailureReason, JobState
from tests.integration.hub.support import (
    claim,
    finish,
    history,
    in_the_past,
    messages,
    requeue,
    run_out,
    submit,
    try_claim,
    types,
)

pytestmark = pytest.mark.integration

HOUR_MS = 3_600_000


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
