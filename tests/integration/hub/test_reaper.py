"""The reaper: lost leases, lost messages, outages, untold ends; one in a cluster."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from tasks import events
from tasks.record import Records
from tasks.state import JobState
from tests.conftest import Hub
from tests.integration.hub.support import (
    claim,
    finish,
    messages,
    run_out,
    submit,
    types,
)
from tests.support.waiting import wait_until
from worker.node import reaper as reaper_module
from worker.node.reaper import Reaper

pytestmark = pytest.mark.integration

TTL_MS = 4_000
RECOVERY_S = 5.0  # the TTL and a quarter of it
LOST_AFTER_S = 0.0

Make = Callable[..., Reaper]


@pytest.fixture
def make(hub: Hub) -> Iterator[Make]:
    """Makes reapers that have seen Redis for long, so that they hold nothing."""
    made: list[Reaper] = []

    def reaper(
        holder: str = "a", *, settled: bool = True, timeout: float = 5.0, **more: Any
    ) -> Reaper:
        given = {"tell": lambda _: None, "lost_after": LOST_AFTER_S, "period": 0.05, **more}
        settings = hub.other(lease_ttl_ms=TTL_MS).settings
        records = Records(settings.connect(timeout=timeout), settings.keys)
        found = Reaper(records, settings, holder=holder, **given)
        made.append(found)
        if settled:
            found.once(0.0)
        return found

    yield reaper
    for one in made:
        one.stop()
        one._records.client.close()


# one in a cluster


def test_one_of_many_leads_and_another_one_takes_over(make: Make, records: Records) -> None:
    first, second = make("a"), make("b", settled=False)
    assert (first.once(10), second.once(10), first.once(11)) == (True, False, True)
    first.stop()
    assert (second.once(12), first.once(12)) == (True, False)
    assert 0 < records.client.pttl(records.keys.reaper) <= 10_000
    first.stop()  # whoever does not lead releases nothing
    assert second.once(13)


def test_a_thread_that_reaps_survives_an_outage(make: Make, hub: Hub, records: Records) -> None:
    make("a", settled=False).start()
    job_id = submit(records, expires_ms=-1)
    wait_until(lambda: records.get(job_id).state is JobState.FAILED, what="reaped")
    hub.server.restart()
    another = submit(records, expires_ms=-1)
    wait_until(lambda: records.get(another).state is JobState.FAILED, what="reaped again")


# leases


def test_a_lost_job_is_queued_again(make: Make, records: Records) -> None:
    reaper = make()
    lost, held = submit(records), submit(records)
    claim(records, lost)
    claim(records, held)
    run_out(records, lost)
    reaper.once(RECOVERY_S + 1)
    assert records.get(lost).state is JobState.QUEUED
    assert records.get(held).state is JobState.STARTING
    assert len(messages(records, lost)) == 2


def test_a_lease_that_has_just_run_out_is_left_for_a_quarter_of_the_ttl(
    make: Make, records: Records
) -> None:
    reaper = make()
    job_id = submit(records)
    claim(records, job_id)
    clock = records.client.time()
    now_ms = clock[0] * 1000 + clock[1] // 1000
    records.client.zadd(records.keys.leases, {job_id: now_ms - 100})
    reaper.once(RECOVERY_S + 1)
    assert records.get(job_id).state is JobState.STARTING
    records.client.zadd(records.keys.leases, {job_id: now_ms - 1_100})
    reaper.once(RECOVERY_S + 2)
    assert records.get(job_id).state is JobState.QUEUED


# outages: leases that ran out meanwhile are left alone, all else goes on


def held_back(records: Records, reaper: Reaper, now: float) -> None:
    """From ``now`` on the reaper holds, for as long as a lease, and only the leases."""
    lost, delayed = submit(records), submit(records)
    claim(records, lost)
    run_out(records, lost)
    lease = claim(records, delayed)
    records.requeue(lease, ["s{}"], reason="stalled", message="", delay_ms=1, counts=True)
    records.client.zadd(records.keys.delayed, {delayed: 1}, xx=True)
    reaper.once(now)
    assert records.get(lost).state is JobState.STARTING
    assert len(messages(records, delayed)) == 2
    reaper.once(now + RECOVERY_S - 0.1)
    assert records.get(lost).state is JobState.STARTING
    reaper.once(now + RECOVERY_S + 0.1)
    assert records.get(lost).state is JobState.QUEUED


def test_after_a_restart_of_redis(make: Make, hub: Hub, records: Records) -> None:
    reaper = make()
    hub.server.restart()
    held_back(records, reaper, 100.0)


def test_after_redis_was_away(make: Make, hub: Hub, records: Records) -> None:
    reaper = make(timeout=0.5)
    hub.server.freeze()
    with pytest.raises(redis.RedisError):
        reaper.once(100.0)
    hub.server.thaw()
    held_back(records, reaper, 100.0)


def test_after_a_leap_of_redis_clock(make: Make, records: Records) -> None:
    reaper = make()
    assert reaper._clock_ms is not None
    reaper._clock_ms -= 10_000  # as if ten seconds had passed between two rounds
    held_back(records, reaper, 100.0)


def test_a_reaper_that_did_not_lead_knows_of_the_outage_too(
    make: Make, hub: Hub, records: Records
) -> None:
    leader, other = make("a"), make("b", settled=False)
    other.once(1.0)
    hub.server.stop()
    with pytest.raises(redis.RedisError):
        other.once(100.0)
    hub.server.start()
    leader.stop()
    held_back(records, other, 100.0)


def test_the_first_one_at_a_young_redis(make: Make, hub: Hub, records: Records) -> None:
    hub.server.restart()
    reaper = make(settled=False)
    job_id = submit(records)
    claim(records, job_id)
    run_out(records, job_id)
    reaper.once(0.0)
    assert records.get(job_id).state is JobState.STARTING
    reaper.once(RECOVERY_S + 0.1)
    assert records.get(job_id).state is JobState.QUEUED


# messages


def lose_message(records: Records, job_id: str) -> None:
    """As a worker that pops it and dies."""
    for step in (0, 3, 6, 9):
        records.client.delete(records.keys.message_list(records.get(job_id).queue, step))


def test_a_queued_job_whose_message_is_gone_gets_it_again(make: Make, records: Records) -> None:
    reaper = make()
    job_id = submit(records)
    lose_message(records, job_id)
    reaper.once(1.0)
    assert not messages(records, job_id)  # it may be on its way
    reaper.once(2.0)
    (pushed,) = messages(records, job_id)
    assert pushed["headers"]["id"] == job_id
    reaper.once(3.0)
    reaper.once(4.0)
    assert len(messages(records, job_id)) == 1


def test_only_the_job_whose_message_is_gone_gets_it_again(make: Make, records: Records) -> None:
    reaper = make()
    gone = submit(records)
    lose_message(records, gone)
    others = [submit(records) for _ in range(5)]
    reaper.once(1.0)
    reaper.once(2.0)
    assert [len(messages(records, one)) for one in [gone, *others]] == [1] * 6


def test_many_queues_are_counted_together_and_none_is_taken_for_another(
    make: Make, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaper_module, "_QUEUES_AT_ONCE", 4)
    reaper = make()
    jobs = [submit(records, pool=f"lab-{number}") for number in range(10)]
    for _ in range(3):  # several in one queue
        submit(records, pool="lab-5")
    gone = {jobs[number] for number in (0, 3, 4, 9)}
    for job_id in gone:
        lose_message(records, job_id)

    def transactions() -> int:
        info: Any = records.client.info("commandstats")
        return int(info["cmdstat_exec"]["calls"])

    reaper.once(1.0)
    before = transactions()
    assert set(reaper._short()) == {records.get(job_id).queue for job_id in gone}
    assert transactions() - before == 3, "ten queues, four at once"
    reaper.once(2.0)
    assert [len(messages(records, job_id)) for job_id in jobs] == [1] * 10


def test_a_message_that_a_worker_has_is_not_lost(make: Make, records: Records) -> None:
    """Nor do messages of another queue, however many, hide one that is."""
    reaper = make()
    held, gone = submit(records), submit(records, required_device="cuda")
    (message,) = messages(records, held)
    lose_message(records, held)
    queue = records.get(held).queue
    for number in range(3):
        delivered = f'[{json.dumps(message)}, "", "{queue}"]'
        records.client.hset(records.keys.unacked, f"tag-{number}", delivered)
    lose_message(records, gone)
    reaper.once(1.0)
    reaper.once(2.0)
    assert not messages(records, held)
    assert len(messages(records, gone)) == 1


def test_a_message_of_an_ended_job_hides_no_lost_one(make: Make, records: Records) -> None:
    reaper = make()
    ended, gone = submit(records), submit(records)
    (message,) = messages(records, ended)
    queue = records.get(ended).queue
    lose_message(records, ended)
    lose_message(records, gone)
    finish(records, claim(records, ended), events.Succeeded(result={}))
    records.client.hset(records.keys.unacked, "tag", f'[{json.dumps(message)}, "", "{queue}"]')
    reaper.once(1.0)
    reaper.once(2.0)
    assert len(messages(records, gone)) == 1


def test_a_message_that_a_worker_keeps_and_does_not_claim_goes_back(
    make: Make, records: Records
) -> None:
    """Before all others, at its own priority, and whatever that worker does with its copy later."""
    reaper = make(stuck_after=20.0, lost_after=3_600.0)
    kept, other, claimed = submit(records), submit(records), submit(records)
    for job_id in (kept, claimed):
        (raw,) = [one for one in queued(records, job_id) if job_id in one]
        records.client.lrem(queue_of(records, job_id), 1, raw)
        held = f'[{raw}, "", "{records.get(job_id).queue}"]'
        records.client.hset(records.keys.unacked, f"tag-{job_id}", held)
        records.client.zadd(records.keys.unacked_index, {f"tag-{job_id}": 1})
    claim(records, claimed)
    reaper.once(1.0)
    reaper.once(20.0)
    assert not messages(records, kept)
    reaper.once(21.0)
    assert [json.loads(one)["headers"]["id"] for one in queued(records, kept)] == [other, kept]
    assert records.client.hkeys(records.keys.unacked) == [f"tag-{claimed}"]
    assert records.client.zrange(records.keys.unacked_index, 0, -1) == [f"tag-{claimed}"]


def test_what_one_leader_has_seen_the_next_one_knows(make: Make, records: Records) -> None:
    """Agents that die one after the other must not put off for ever what is lost or stuck."""
    first, second = make("a", lost_after=15.0), make("b", settled=False, lost_after=15.0)
    lost, stuck = submit(records), submit(records, required_device="cuda")
    lose_message(records, lost)
    (raw,) = [one for one in queued(records, stuck) if stuck in one]
    records.client.lrem(queue_of(records, stuck), 1, raw)
    held = f'[{raw}, "", "{records.get(stuck).queue}"]'
    records.client.hset(records.keys.unacked, "tag", held)
    first.once(1.0)
    first.once(11.0)
    assert records.client.pttl(records.keys.reaper_seen) > 0
    # as if the job had waited as long; the tests' clocks are faster than Redis's
    for job in (lost, stuck):
        records.client.zadd(records.keys.waiting(records.get(job).queue), {job: 1}, xx=True)
    records.client.delete(records.keys.reaper)  # its lease ran out
    second.once(1_000.0)
    assert not messages(records, lost)
    second.once(1_006.0)
    assert len(messages(records, lost)) == 1
    assert not messages(records, stuck)
    second.once(1_011.0)
    assert len(messages(records, stuck)) == 1


def queue_of(records: Records, job_id: str) -> str:
    return records.keys.message_list(records.get(job_id).queue, 6)


def queued(records: Records, job_id: str) -> list[str]:
    """What is in the job's queue; the last one is served first."""
    return records.client.lrange(queue_of(records, job_id), 0, -1)


def test_a_job_that_just_came_is_given_time(make: Make, records: Records) -> None:
    reaper = make(lost_after=3_600.0)
    job_id = submit(records)
    lose_message(records, job_id)
    reaper.once(1.0)
    reaper.once(4_000.0)
    assert not messages(records, job_id)


def test_what_is_no_message_in_a_queue_is_passed_over(make: Make, records: Records) -> None:
    reaper = make()
    job_id = submit(records)
    lose_message(records, job_id)
    queue = records.keys.message_list(records.get(job_id).queue, 6)
    records.client.hset(records.keys.unacked, mapping={"a": "{", "b": "[]", "c": '[{}, "", 3]'})
    submit(records)
    records.client.lset(queue, 0, "[[[")
    reaper.once(1.0)
    reaper.once(2.0)
    assert messages_safe(records, queue, job_id) == 1


def messages_safe(records: Records, queue: str, job_id: str) -> int:
    return sum(job_id in text for text in records.client.lrange(queue, 0, -1))


def test_a_hundred_times_two_jobs_are_dealt_with_in_rounds(make: Make, records: Records) -> None:
    ids = [submit(records, expires_ms=-1) for _ in range(150)]
    reaper = make()
    assert sum(records.get(one).state is JobState.FAILED for one in ids) == 100
    reaper.once(1.0)
    assert all(records.get(one).state is JobState.FAILED for one in ids)


# ends that Celery has not heard of


def test_it_tells_of_every_end_that_nobody_told(make: Make, records: Records) -> None:
    told: list[str] = []

    def tell(job_id: str) -> None:
        told.append(job_id)
        if len(told) == 1:
            raise ValueError("this one cannot be told")

    reaper = make(tell=tell)
    ids = [submit(records, expires_ms=-1) for _ in range(3)]
    reaper.once(1.0)
    assert sorted(told) == sorted(ids)
    reaper.once(2.0)
    assert len(told) == 3  # each comes again, but not at once


def test_a_job_that_its_worker_has_told_is_not_told_again(make: Make, records: Records) -> None:
    told: list[str] = []
    reaper = make(tell=told.append)
    job_id = submit(records)
    finish(records, claim(records, job_id), events.Succeeded())
    records.mark_result_stored(job_id)
    records.client.zadd(records.keys.untold, {job_id: 1})  # as if the mark had come too late
    reaper.once(1.0)
    assert told == []
    assert types(records, job_id)[-1] == "succeeded"


def test_messages_of_ended_jobs_leave_queues_that_nobody_reads(
    hub: Hub, records: Records, make: Make
) -> None:
    """But not those that Celery is yet to be told of, nor those that no record is known of."""
    from tasks.control import cancel
    from tasks.publishing import TRAIN

    config = {"command": ["true"], "pool": "nobody"}
    told, untold, waiting = (hub.app.send_task(TRAIN, [config]) for _ in range(3))
    cancel(told.id, app=hub.app)
    records.cancel(untold.id, "without a word to Celery")
    queue = records.get(told.id).queue
    [key] = [
        key for step in (0, 3, 6, 9) if hub.client.llen(key := hub.keys.message_list(queue, step))
    ]
    hub.client.lpush(key, "of a program that records nothing")
    reaper = make(settled=False)
    reaper.once(1_000.0)
    left = hub.client.lrange(key, 0, -1)
    assert [one for one in (told, untold, waiting) if any(one.id in text for text in left)] == [
        untold,
        waiting,
    ]
    assert len(left) == 3
