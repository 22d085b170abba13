"""The reaper and messages: lost ones, stuck ones, those of jobs that are over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks import events
from tasks.control import cancel
from tasks.publishing import TRAIN
from tasks.record import Records
from tasks.routing import slot_queue
from tests.conftest import Hub
from tests.integration.hub.support import MakeReaper, claim, finish, messages, requeue, submit
from tests.support.wall_clock import WallClock
from worker.node import dead_messages
from worker.node import reaper as reaper_module

pytestmark = pytest.mark.integration

TAKE = """
import os, sys
from kombu import Queue
from tasks.celery import make_app
from tasks.settings import Settings
with make_app(Settings(redis_url=sys.argv[1])).connection_for_read() as connection:
    channel = connection.channel()
    for name in sys.argv[2:]:
        assert Queue(name, routing_key=name)(channel).get() is not None
    os._exit(0)
"""
"""Takes a message of each queue as a worker does, and dies."""


def lose_message(records: Records, job_id: str) -> None:
    """As a worker that pops it and dies."""
    for step in (0, 3, 6, 9):
        records.client.delete(records.keys.message_list(records.get(job_id).queue, step))


def test_a_queued_job_whose_message_is_gone_gets_it_again(
    make_reaper: MakeReaper, records: Records
) -> None:
    reaper = make_reaper()
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


def test_only_the_job_whose_message_is_gone_gets_it_again(
    make_reaper: MakeReaper, records: Records
) -> None:
    reaper = make_reaper()
    gone = submit(records)
    lose_message(records, gone)
    others = [submit(records) for _ in range(5)]
    reaper.once(1.0)
    reaper.once(2.0)
    assert [len(messages(records, one)) for one in [gone, *others]] == [1] * 6


def test_what_is_no_message_hides_no_lost_one(make_reaper: MakeReaper, records: Records) -> None:
    """Whatever somebody has put into the queue, and among what workers have."""
    reaper, deep = make_reaper(), "[" * 100_000
    jobs = [submit(records) for _ in range(4)]  # one more than there will be of what is no message
    lose_message(records, jobs[0])
    queue, client = records.get(jobs[0]).queue, records.client
    client.lpush(records.keys.message_list(queue, 0), deep, "5", '{"headers": []}')
    client.hset(records.keys.unacked, mapping={"deep": deep, "map": '{"a": 1}', "no": "5"})
    reaper._tidy_at = 0.0
    reaper.once(1.0)
    reaper.once(2.0)
    assert [len(messages(records, job_id)) for job_id in jobs] == [1] * 4


def test_many_queues_are_counted_together_and_none_is_taken_for_another(
    make_reaper: MakeReaper, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaper_module, "_QUEUES_AT_ONCE", 4)
    reaper = make_reaper()
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


def test_a_message_that_a_worker_has_is_not_lost(make_reaper: MakeReaper, records: Records) -> None:
    """Nor do messages of another queue, however many, hide one that is."""
    reaper = make_reaper()
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


def test_a_message_of_an_ended_job_hides_no_lost_one(
    make_reaper: MakeReaper, records: Records
) -> None:
    reaper = make_reaper()
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
    make_reaper: MakeReaper, records: Records
) -> None:
    """Before all others, at its own priority, and whatever that worker does with its copy later."""
    reaper = make_reaper(stuck_after=20.0, lost_after=3_600.0)
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


def test_a_summons_to_a_slot_that_died_goes_and_leaves_no_list(
    make_reaper: MakeReaper, records: Records
) -> None:
    """Nobody else reads that list, and it is in no index: what is put there needs an end."""
    reaper = make_reaper(stuck_after=20.0, lost_after=3_600.0)
    client, keys, job_id = records.client, records.keys, submit(records)
    lease = claim(records, job_id)
    queue = slot_queue("node-a", "cpu0")
    assert records.leases.summon(lease, queue)
    raw = client.lpop(keys.message_list(queue, 0))
    client.hset(keys.unacked, "tag", f'[{raw}, "", "{queue}"]')
    client.zadd(keys.unacked_index, {"tag": 1})
    requeue(records, lease)
    reaper.once(1.0)
    reaper.once(21.0)
    assert not client.exists(keys.unacked, keys.unacked_index, keys.message_list(queue, 0))
    assert len(messages(records, job_id)) == 2

    client.hset(keys.unacked, "tag", f'[{raw}, "", "{queue}"]')
    assert records.upkeep.put_back(job_id, "tag")  # by a slot that has another job to go on with
    [priority] = [step for step in (0, 3, 6, 9) if client.exists(keys.message_list(queue, step))]
    assert 0 < client.ttl(keys.message_list(queue, priority)) <= 3_600


def test_what_one_leader_has_seen_the_next_one_knows(
    make_reaper: MakeReaper, records: Records
) -> None:
    """Agents that die one after the other must not put off for ever what is lost or stuck."""
    first, second = (
        make_reaper("a", lost_after=15.0),
        make_reaper("b", settled=False, lost_after=15.0),
    )
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


def test_a_job_that_just_came_is_given_time(make_reaper: MakeReaper, records: Records) -> None:
    reaper = make_reaper(lost_after=3_600.0)
    job_id = submit(records)
    lose_message(records, job_id)
    reaper.once(1.0)
    reaper.once(4_000.0)
    assert not messages(records, job_id)


def test_what_is_no_message_in_a_queue_is_passed_over(
    make_reaper: MakeReaper, records: Records
) -> None:
    reaper = make_reaper()
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


def test_messages_of_ended_jobs_leave_queues_that_nobody_reads(
    hub: Hub, records: Records, make_reaper: MakeReaper
) -> None:
    """But not those that Celery is yet to be told of, nor those that no record is known of."""
    config = {"command": ["true"], "pool": "nobody"}
    told, untold, waiting = (hub.app.send_task(TRAIN, [config]) for _ in range(3))
    cancel(told.id, app=hub.app)
    records.cancel(untold.id, "without a word to Celery")
    queue = records.get(told.id).queue
    [key] = [
        key for step in (0, 3, 6, 9) if hub.client.llen(key := hub.keys.message_list(queue, step))
    ]
    hub.client.lpush(key, "of a program that records nothing")
    reaper = make_reaper(settled=False)
    reaper.once(1_000.0)
    left = hub.client.lrange(key, 0, -1)
    assert [one for one in (told, untold, waiting) if any(one.id in text for text in left)] == [
        untold,
        waiting,
    ]
    assert len(left) == 3


def test_a_long_queue_is_looked_at_bit_by_bit(
    hub: Hub, records: Records, make_reaper: MakeReaper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_messages, "_MOST", 3)
    jobs = [hub.app.send_task(TRAIN, [{"command": ["true"], "pool": "nobody"}]) for _ in range(10)]
    over = {jobs[number].id for number in (0, 5, 9)}
    for job_id in over:
        cancel(job_id, app=hub.app)
    queue = queue_of(records, jobs[0].id)
    reaper = make_reaper(settled=False)
    for turn in range(5):
        reaper.once(1_000.0 * (turn + 1))
    left = {dead_messages.job_of(text) for text in hub.client.lrange(queue, 0, -1)}
    assert left == {job.id for job in jobs} - over


def test_messages_that_a_worker_took_whose_clock_was_ahead(
    make_reaper: MakeReaper, hub: Hub, records: Records, tmp_path: Path
) -> None:
    """kombu would give them back when their hour has come. By Redis's clock, that of a job that is
    over goes, that of a queued one is queued, and of what runs kombu counts from now."""
    config = {"command": ["true"]}
    jobs = [hub.app.send_task(TRAIN, [{**config, "pool": f"lab-{n}"}]).id for n in range(4)]
    over, untold, queued, running = jobs
    clock = WallClock(tmp_path / "clock")
    clock.set(7_200.0)
    subprocess.run(
        [sys.executable, "-c", TAKE, hub.url, *[records.get(one).queue for one in jobs]],
        env={**os.environ, **clock.env},
        check=True,
    )
    now = hub.client.time()[0]
    index, key = hub.keys.unacked_index, hub.keys.unacked
    assert hub.client.zcount(index, now + 7_000, "+inf") == hub.client.hlen(key) == 4
    cancel(over, app=hub.app)
    records.cancel(untold, "without a word to Celery")
    lease = claim(records, running)

    reaper = make_reaper(lost_after=3_600.0, stuck_after=20.0)
    reaper.once(1.0)
    assert hub.client.zcount(index, now, now + 60) == 4
    assert hub.client.hlen(key) == 4, "a claim may be on its way"
    reaper.once(21.0)
    assert len(messages(records, queued)) == 1
    left = hub.client.hvals(key)
    assert hub.client.zcard(index) == len(left) == 2
    assert all(any(job in text for text in left) for job in (untold, running))
    finish(records, lease, events.Succeeded())
    for job in (untold, running):
        records.mark_result_stored(job)
    reaper.once(41.0)
    assert not hub.client.exists(index, key)
    assert not messages(records, over)
