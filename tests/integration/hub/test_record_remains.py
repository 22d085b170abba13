"""What a job leaves in Redis when it ends, for how long, and how Celery gets to hear of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tasks import events
from tasks.errors import BrokenRecord
from tasks.leases import tagged
from tasks.record import Records
from tasks.recorded import ResultMeta
from tasks.state import JobState
from tests.conftest import Hub
from tests.integration.hub.support import (
    claim,
    finish,
    in_the_past,
    messages,
    requeue,
    submit,
)

pytestmark = pytest.mark.integration

HOUR_MS = 3_600_000


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
