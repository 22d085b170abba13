"""The reaper: lost leases, lost messages, outages, untold ends; one in a cluster."""

from __future__ import annotations

import pytest
import redis

from tasks import events
from tasks.record import Records
from tasks.state import JobState
from tests.conftest import Hub
from tests.integration.hub.support import (
    REAPER_TTL_MS,
    MakeReaper,
    claim,
    finish,
    messages,
    run_out,
    submit,
    types,
)
from tests.support.waiting import wait_until
from worker.node.reaper import Reaper

pytestmark = pytest.mark.integration

RECOVERY_S = 1.25 * REAPER_TTL_MS / 1000


# one in a cluster


def test_one_of_many_leads_and_another_one_takes_over(
    make_reaper: MakeReaper, records: Records
) -> None:
    first, second = make_reaper("a"), make_reaper("b", settled=False)
    assert (first.once(10), second.once(10), first.once(11)) == (True, False, True)
    first.stop()
    assert (second.once(12), first.once(12)) == (True, False)
    assert 0 < records.client.pttl(records.keys.reaper) <= 10_000
    first.stop()  # whoever does not lead releases nothing
    assert second.once(13)


def test_a_thread_that_reaps_survives_an_outage(
    make_reaper: MakeReaper, hub: Hub, records: Records
) -> None:
    make_reaper("a", settled=False).start()
    job_id = submit(records, expires_ms=-1)
    wait_until(lambda: records.get(job_id).state is JobState.FAILED, what="reaped")
    hub.server.restart()
    another = submit(records, expires_ms=-1)
    wait_until(lambda: records.get(another).state is JobState.FAILED, what="reaped again")


# leases


def test_a_lost_job_is_queued_again(make_reaper: MakeReaper, records: Records) -> None:
    reaper = make_reaper()
    lost, held = submit(records), submit(records)
    claim(records, lost)
    claim(records, held)
    run_out(records, lost)
    reaper.once(RECOVERY_S + 1)
    assert records.get(lost).state is JobState.QUEUED
    assert records.get(held).state is JobState.STARTING
    assert len(messages(records, lost)) == 2


def test_a_lease_that_has_just_run_out_is_left_for_a_quarter_of_the_ttl(
    make_reaper: MakeReaper, records: Records
) -> None:
    reaper = make_reaper()
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
    records.leases.requeue(lease, ["s{}"], reason="stalled", message="", delay_ms=1, counts=True)
    records.client.zadd(records.keys.delayed, {delayed: 1}, xx=True)
    reaper.once(now)
    assert records.get(lost).state is JobState.STARTING
    assert len(messages(records, delayed)) == 2
    reaper.once(now + RECOVERY_S - 0.1)
    assert records.get(lost).state is JobState.STARTING
    reaper.once(now + RECOVERY_S + 0.1)
    assert records.get(lost).state is JobState.QUEUED


def test_after_a_restart_of_redis(make_reaper: MakeReaper, hub: Hub, records: Records) -> None:
    reaper = make_reaper()
    hub.server.restart()
    held_back(records, reaper, 100.0)


def test_after_redis_was_away(make_reaper: MakeReaper, hub: Hub, records: Records) -> None:
    reaper = make_reaper(timeout=0.5)
    hub.server.freeze()
    with pytest.raises(redis.RedisError):
        reaper.once(100.0)
    hub.server.thaw()
    held_back(records, reaper, 100.0)


def test_after_a_leap_of_redis_clock(make_reaper: MakeReaper, records: Records) -> None:
    reaper = make_reaper()
    assert reaper._clock_ms is not None
    reaper._clock_ms -= 10_000  # as if ten seconds had passed between two rounds
    held_back(records, reaper, 100.0)


def test_a_reaper_that_did_not_lead_knows_of_the_outage_too(
    make_reaper: MakeReaper, hub: Hub, records: Records
) -> None:
    leader, other = make_reaper("a"), make_reaper("b", settled=False)
    other.once(1.0)
    hub.server.stop()
    with pytest.raises(redis.RedisError):
        other.once(100.0)
    hub.server.start()
    leader.stop()
    held_back(records, other, 100.0)


def test_the_first_one_at_a_young_redis(
    make_reaper: MakeReaper, hub: Hub, records: Records
) -> None:
    hub.server.restart()
    reaper = make_reaper(settled=False)
    job_id = submit(records)
    claim(records, job_id)
    run_out(records, job_id)
    reaper.once(0.0)
    assert records.get(job_id).state is JobState.STARTING
    reaper.once(RECOVERY_S + 0.1)
    assert records.get(job_id).state is JobState.QUEUED


def test_a_hundred_times_two_jobs_are_dealt_with_in_rounds(
    make_reaper: MakeReaper, records: Records
) -> None:
    ids = [submit(records, expires_ms=-1) for _ in range(150)]
    reaper = make_reaper()
    assert sum(records.get(one).state is JobState.FAILED for one in ids) == 100
    reaper.once(1.0)
    assert all(records.get(one).state is JobState.FAILED for one in ids)


# ends that Celery has not heard of


def test_it_tells_of_every_end_that_nobody_told(make_reaper: MakeReaper, records: Records) -> None:
    told: list[str] = []

    def tell(job_id: str) -> None:
        told.append(job_id)
        if len(told) == 1:
            raise ValueError("this one cannot be told")

    reaper = make_reaper(tell=tell)
    ids = [submit(records, expires_ms=-1) for _ in range(3)]
    reaper.once(1.0)
    assert sorted(told) == sorted(ids)
    reaper.once(2.0)
    assert len(told) == 3  # each comes again, but not at once


def test_a_job_that_its_worker_has_told_is_not_told_again(
    make_reaper: MakeReaper, records: Records
) -> None:
    told: list[str] = []
    reaper = make_reaper(tell=told.append)
    job_id = submit(records)
    finish(records, claim(records, job_id), events.Succeeded())
    records.mark_result_stored(job_id)
    records.client.zadd(records.keys.untold, {job_id: 1})  # as if the mark had come too late
    reaper.once(1.0)
    assert told == []
    assert types(records, job_id)[-1] == "succeeded"
