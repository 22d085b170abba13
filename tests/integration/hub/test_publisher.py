"""The publisher on a real Redis: every number once, whatever Redis does, and little memory."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Callable, Iterator

import pytest

from tasks import events
from tasks.events import Envelope, Log, Progress
from tasks.record import Records
from tasks.recorded import Lease
from tasks.state import FailureReason, JobState
from tests.conftest import Hub
from tests.integration.hub.support import claim, finish, history, log, progress, run_out, submit
from tests.support.waiting import wait_until
from worker.stream.buffer import HIGH
from worker.stream.publisher import Publisher, Unsaid

pytestmark = pytest.mark.integration

Make = Callable[..., Publisher]


@pytest.fixture
def records(hub: Hub) -> Iterator[Records]:
    """With the patience that a slot has."""
    client = hub.settings.connect(timeout=0.5)
    yield Records(client, hub.keys)
    client.close()


@pytest.fixture
def lease(records: Records) -> Lease:
    return claim(records, submit(records))


def sent(records: Records, lease: Lease) -> list[Envelope]:
    """All that is stored but for the job's first event; no number is missing."""
    found = history(records, lease.job_id)
    assert [one.seq for one in found] == list(range(1, len(found) + 1))
    return found[1:]


def end(records: Records, lease: Lease, publisher: Publisher) -> list[Envelope]:
    """Close it, say with the end what it left, and return all that was said."""
    left = publisher.close()
    records.leases.finish(
        lease, JobState.SUCCEEDED, [*left.events, "s" + events.encode(events.Succeeded())],
        reason=None, message="", result={}, snapshot=left.snapshot, ran_ms=left.ran_ms,
    )  # fmt: skip
    return sent(records, lease)


def drained(publisher: Publisher) -> bool:
    return publisher.stats.offered == publisher.stats.published + publisher.stats.coalesced


def test_events_go_at_once_and_in_order(records: Records, lease: Lease) -> None:
    publisher = Publisher(records.leases, lease)
    publisher.state(events.Started(), state=JobState.RUNNING)
    publisher.offer(progress(1))
    publisher.offer(log("a"))
    wait_until(lambda: len(sent(records, lease)) == 3, what="all of them")
    assert [one.type for one in sent(records, lease)] == ["started", "progress", "log"]
    record = records.get(lease.job_id)
    assert (record.state, record.progress["epoch"]) == (JobState.RUNNING, 1)
    publisher.close()


def test_what_is_held_is_said_with_the_end(records: Records, lease: Lease) -> None:
    """Also what the record shows of it."""
    publisher = Publisher(records.leases, lease, hold=True)
    publisher.state(events.Admitted(mode="native", why="it may"))
    publisher.state(events.Started(image="an/image", digest="sha256:1"), state=JobState.RUNNING)
    for epoch in (1, 2):
        publisher.offer(progress(epoch))
    assert sent(records, lease) == []
    told = [one.type for one in end(records, lease, publisher)]
    assert told == ["admitted", "started", "progress", "progress", "succeeded"]
    record = records.get(lease.job_id)
    assert (record.state, record.progress["epoch"]) == (JobState.SUCCEEDED, 2)
    names = ("ran", "image", "running", "started")
    ran, image, running, started = records.client.hmget(records.keys.job(lease.job_id), names)
    assert (ran, image) == ("1", "sha256:1")
    assert int(running) >= int(started)


def test_what_is_held_goes_at_once_when_it_begins(records: Records, lease: Lease) -> None:
    publisher = Publisher(records.leases, lease, hold=True)
    publisher.state(events.Started(), state=JobState.RUNNING)
    publisher.begin()
    publisher.begin()
    wait_until(lambda: len(sent(records, lease)) == 1, what="it is sent")
    assert records.get(lease.job_id).state is JobState.RUNNING
    assert publisher.close() == Unsaid(batch=1)


def test_a_job_that_ran_and_is_queued_again_does_not_expire(records: Records) -> None:
    """Whether it was told that it runs, or not."""
    job_id = submit(records, expires_ms=60_000)
    lease = claim(records, job_id)
    publisher = Publisher(records.leases, lease, hold=True)
    publisher.state(events.Started(), state=JobState.RUNNING)
    left = publisher.close()
    records.leases.requeue(
        lease, [*left.events, "s" + events.encode(events.Retrying(reason="internal", message=""))],
        reason=FailureReason.INTERNAL, message="", delay_ms=0, counts=True, ran_ms=left.ran_ms,
    )  # fmt: skip
    assert records.client.zscore(records.keys.expiring, job_id) is None


def test_what_close_leaves_is_said_with_the_end(records: Records, lease: Lease) -> None:
    publisher = Publisher(records.leases, lease)
    for number in range(500):
        publisher.offer(log(f"{number}"))
    said = end(records, lease, publisher)
    lines = [line for one in said if isinstance(one.event, Log) for line in one.event.lines]
    assert lines == [f"{number}" for number in range(500)]
    assert said[-1].type == "succeeded"
    assert publisher.close().events == ()


def test_from_many_threads_no_number_is_missing(records: Records, lease: Lease) -> None:
    publisher = Publisher(records.leases, lease)

    def flood(name: int) -> None:
        for number in range(100):
            publisher.offer(log(f"{name}.{number}"))

    threads = [threading.Thread(target=flood, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    said = end(records, lease, publisher)
    lines = [line for one in said if isinstance(one.event, Log) for line in one.event.lines]
    for name in range(4):
        mine = [line for line in lines if line.startswith(f"{name}.")]
        assert mine == [f"{name}.{number}" for number in range(100)]


def test_while_redis_is_away_the_job_goes_on_and_only_what_it_printed_gives_way(
    hub: Hub, records: Records, lease: Lease
) -> None:
    publisher = Publisher(records.leases, lease)
    publisher.state(events.Started(), state=JobState.RUNNING)
    publisher.offer(progress(0))
    wait_until(lambda: len(sent(records, lease)) == 2, what="a beginning")
    hub.server.stop()
    publisher.offer(log("the first that does not get through"))
    wait_until(lambda: publisher.stats.errors, what="Redis to be missed")
    tracemalloc.start()
    for number in range(2_000):
        publisher.offer(progress(number))
        publisher.offer(Log(stream="stderr" if number % 2 else "stdout", lines=("x" * 4_000,) * 8))
        if number % 200 == 50:
            publisher.state(events.Paused(why=f"{number}"), state=JobState.PAUSED)
            publisher.state(events.Resumed(), state=JobState.RUNNING)
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert held < 10 * 2**20  # of the 64 MB that were offered
    hub.server.start()
    said = end(records, lease, publisher)
    pauses = [one.event.why for one in said if isinstance(one.event, events.Paused)]
    assert pauses == [f"{number}" for number in range(50, 2_000, 200)]
    reports = [one.event for one in said if isinstance(one.event, Progress)]
    assert sum(1 + one.coalesced for one in reports) == 2_001
    assert reports[-1].epoch == 1_999
    logs = [one.event for one in said if isinstance(one.event, Log)]
    assert sum(len(one.lines) + one.dropped for one in logs) == 16_001
    assert drained(publisher)


def test_a_batch_whose_answer_was_lost_is_not_said_twice(
    hub: Hub, records: Records, lease: Lease
) -> None:
    publisher = Publisher(records.leases, lease)
    for number in range(60):
        publisher.offer(log(f"{number}"))
        if number % 10 == 5:
            hub.client.client_kill_filter(_type="normal", skipme=True)
        wait_until(lambda: drained(publisher), what="sent")
    said = end(records, lease, publisher)
    lines = [line for one in said if isinstance(one.event, Log) for line in one.event.lines]
    assert lines == [f"{number}" for number in range(60)]


def test_redis_freezes_for_longer_than_its_clients_wait(
    hub: Hub, records: Records, lease: Lease
) -> None:
    """The frozen server has the batch, and carries it out when it thaws; so do the repetitions."""
    publisher = Publisher(records.leases, lease)
    hub.server.freeze()
    publisher.offer(log("once"))
    wait_until(lambda: publisher.stats.errors >= 2, what="given up twice")
    hub.server.thaw()
    said = end(records, lease, publisher)
    assert [one.type for one in said] == ["log", "succeeded"]


def test_a_lost_lease_stops_it_and_says_so_once(records: Records, lease: Lease) -> None:
    lost: list[int] = []
    publisher = Publisher(records.leases, lease, on_lost=lambda: lost.append(1))
    run_out(records, lease.job_id)
    other = claim(records, lease.job_id)
    publisher.offer(progress(1))
    wait_until(lambda: publisher.lost, what="told")
    for number in range(3 * HIGH):
        publisher.offer(log(f"{number}"))
        publisher.state(events.Paused())
    assert publisher.close().events == ()
    assert lost == [1]
    assert [one.type for one in sent(records, lease)] == ["retrying"]
    finish(records, other, events.Succeeded())


def test_a_state_that_may_not_follow_costs_no_event(records: Records, lease: Lease) -> None:
    publisher = Publisher(records.leases, lease)
    publisher.state(events.Paused(why="too soon"), state=JobState.PAUSED)
    publisher.offer(progress(1))
    wait_until(lambda: len(sent(records, lease)) == 2, what="both")
    assert records.get(lease.job_id).state is JobState.STARTING
    publisher.close()


def test_a_loud_job_goes_in_few_batches(records: Records, lease: Lease) -> None:
    publisher = Publisher(records.leases, lease)
    for number in range(20_000):
        publisher.offer(progress(number % 100))
    wait_until(lambda: drained(publisher), what="sent")
    assert publisher.stats.batches < 2_000
    assert records.get(lease.job_id).progress["epoch"] == 99
    publisher.close()
