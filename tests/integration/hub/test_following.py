"""Followers get every event once and in order, whenever they join and whatever Redis does."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import redis

from tasks import events
from tasks.errors import RedisUnavailable, UnknownJob
from tasks.events import Envelope, Log, Truncated
from tasks.following import follow, follow_async
from tasks.leases import tagged
from tasks.record import Records
from tasks.recorded import Lease
from tasks.settings import Settings
from tests.conftest import Hub
from tests.integration.hub.support import claim, finish, log, progress, submit
from tests.support.redis_server import free_port
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

WAIT = 30.0


def sync(job_id: str, settings: Settings, **how: Any) -> Generator[Envelope, None, None]:
    return follow(job_id, settings=settings, **{"timeout": WAIT, **how})


def through_asyncio(job_id: str, settings: Settings, **how: Any) -> Generator[Envelope, None, None]:
    """`follow_async`, for tests that know only iterators."""
    loop = asyncio.new_event_loop()
    given: dict[str, Any] = {"timeout": WAIT, **how}
    one = follow_async(job_id, settings=settings, **given)
    try:
        while True:
            try:
                yield loop.run_until_complete(anext(one))
            except StopAsyncIteration:
                return
    finally:
        loop.run_until_complete(one.aclose())
        loop.close()


Follow = Callable[..., Generator[Envelope, None, None]]
both = pytest.mark.parametrize("following", [sync, through_asyncio], ids=["sync", "async"])


def in_order(found: list[Envelope], last: int) -> bool:
    return [one.seq for one in found] == list(range(1, last + 1))


def say(records: Records, lease: Lease, count: int) -> None:
    for number in range(count):
        records.leases.publish(lease, [tagged(progress(number)), tagged(log(f"line {number}"))])


def subscribers(hub: Hub, job_id: str) -> int:
    ((_, count),) = hub.client.pubsub_numsub(hub.keys.events(job_id))
    return int(count)


@both
def test_after_the_end(hub: Hub, following: Follow) -> None:
    job_id = submit(hub.records)
    lease = claim(hub.records, job_id)
    say(hub.records, lease, 5)
    finish(hub.records, lease, events.Succeeded(result={"a": 1}))
    for _ in range(2):
        found = list(following(job_id, hub.settings))
        assert in_order(found, 12)
        assert found[-1].event == events.Succeeded(result={"a": 1})


@both
def test_from_the_beginning_and_from_the_middle(hub: Hub, following: Follow) -> None:
    job_id = submit(hub.records)
    first = following(job_id, hub.settings)
    assert next(first).type == "queued"
    lease = claim(hub.records, job_id)
    say(hub.records, lease, 3)
    second = following(job_id, hub.settings)
    assert [next(second).seq for _ in range(4)] == [1, 2, 3, 4]
    say(hub.records, lease, 3)
    finish(hub.records, lease, events.Succeeded())
    assert [one.seq for one in first] == list(range(2, 15))
    assert [one.seq for one in second] == list(range(5, 15))


def test_many_followers_join_at_any_time_while_a_publisher_floods(hub: Hub) -> None:
    records = hub.records
    job_id = submit(records)
    lease = claim(records, job_id)
    rounds, followers = 300, 16
    joined: list[Future[list[Envelope]]] = []
    with ThreadPoolExecutor(followers) as pool:
        for number in range(rounds):
            records.leases.publish(lease, [tagged(progress(number)), tagged(log(f"{number}"))] * 2)
            if number % (rounds // followers) == 0 and len(joined) < followers:
                how = sync if len(joined) % 2 else through_asyncio
                joined.append(
                    pool.submit(lambda how=how: list(how(job_id, hub.settings)))  # type: ignore[misc]
                )
        finish(records, lease, events.Succeeded())
        for one in joined:
            assert in_order(one.result(WAIT), 1 + 4 * rounds + 1)


@both
def test_as_the_job_ends(hub: Hub, following: Follow) -> None:
    """Wherever the end falls between subscribing, reading the history, and listening."""
    for _ in range(15):
        job_id = submit(hub.records)
        lease = claim(hub.records, job_id)
        together = threading.Barrier(2)

        def end(lease: Lease = lease, gate: threading.Barrier = together) -> None:
            gate.wait(10)
            finish(hub.records, lease, events.Succeeded())

        thread = threading.Thread(target=end)
        thread.start()
        together.wait(10)
        assert in_order(list(following(job_id, hub.settings)), 2)
        thread.join()


@both
def test_what_the_capped_tail_has_dropped_is_said(hub: Hub, following: Follow) -> None:
    records = hub.records
    job_id = submit(records)
    lease = claim(records, job_id)
    for number in range(25):
        records.leases.publish(lease, [tagged(progress(number))] * 100)
    finish(records, lease, events.Succeeded())
    first, gap, *rest = following(job_id, hub.settings)
    assert first.type == "queued"
    assert isinstance(gap.event, Truncated)
    assert (gap.event.from_seq, gap.event.to_seq) == (2, rest[0].seq - 1)
    assert [one.seq for one in rest] == list(range(gap.event.to_seq + 1, 2503))


@both
def test_a_job_that_nobody_knows(hub: Hub, following: Follow) -> None:
    with pytest.raises(UnknownJob, match="never submitted to this Redis under this prefix"):
        next(following("no-such-job", hub.settings))
    with pytest.raises(UnknownJob):
        next(following(submit(hub.records), hub.other(prefix="other:").settings))


@both
def test_patience_ends(hub: Hub, following: Follow) -> None:
    job_id = submit(hub.records)
    found = following(job_id, hub.settings, timeout=0.3)
    assert next(found).type == "queued"
    with pytest.raises(TimeoutError, match="did not end within the time"):
        next(found)
    wait_until(lambda: subscribers(hub, job_id) == 0, what="the follower to be gone")


@both
def test_a_follower_that_has_had_enough_leaves_nothing(hub: Hub, following: Follow) -> None:
    job_id = submit(hub.records)
    found = following(job_id, hub.settings)
    next(found)
    assert subscribers(hub, job_id) == 1
    found.close()
    wait_until(lambda: subscribers(hub, job_id) == 0, what="the follower to be gone")


# Redis goes away


class Follower:
    """One that follows on a thread of its own."""

    def __init__(self, following: Follow, job_id: str, settings: Settings) -> None:
        self.found: list[Envelope] = []
        self.error: BaseException | None = None
        self._events = following(job_id, settings)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        wait_until(lambda: self.found, what="the first event")

    def _run(self) -> None:
        try:
            for one in self._events:
                self.found.append(one)
        except BaseException as error:
            self.error = error

    def result(self) -> list[Envelope]:
        self._thread.join(WAIT)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error
        return self.found


@both
def test_redis_dies_and_comes_back_while_following(hub: Hub, following: Follow) -> None:
    records = hub.records

    def lose_nothing() -> None:
        # by default Redis puts off writing while the disk is busy: a kill then takes answers back
        hub.client.config_set("appendfsync", "always")

    lose_nothing()
    job_id = submit(records)
    lease = claim(records, job_id)
    follower = Follower(following, job_id, hub.settings)
    for _ in range(2):
        hub.server.restart()
        wait_until(lambda: answers(records), what="redis")
        lose_nothing()
        say(records, lease, 3)
    finish(records, lease, events.Succeeded())
    assert in_order(follower.result(), 14)


def answers(records: Records) -> bool:
    try:
        records.client.ping()
    except redis.RedisError:
        return False
    return True


@both
def test_its_connections_are_cut_again_and_again(hub: Hub, following: Follow) -> None:
    records = hub.records
    job_id = submit(records)
    lease = claim(records, job_id)
    follower = Follower(following, job_id, hub.settings)
    for _ in range(5):
        say(records, lease, 3)
        hub.client.client_kill_filter(_type="pubsub")
    finish(records, lease, events.Succeeded())
    assert in_order(follower.result(), 32)


@both
def test_redis_freezes_while_following(hub: Hub, following: Follow) -> None:
    records = hub.records
    job_id = submit(records)
    lease = claim(records, job_id)
    follower = Follower(following, job_id, hub.settings)
    hub.server.freeze()
    hub.server.thaw()
    say(records, lease, 3)
    finish(records, lease, events.Succeeded())
    assert in_order(follower.result(), 8)


@both
def test_a_redis_that_stays_away_is_waited_for_only_so_long(hub: Hub, following: Follow) -> None:
    job_id = submit(hub.records)
    found = following(job_id, hub.settings, reconnect_for=0.2)
    next(found)
    hub.server.stop()
    with pytest.raises(RedisUnavailable, match="cannot use Redis at unix://"):
        next(found)


@both
def test_a_redis_that_was_never_there_is_not_waited_for(following: Follow) -> None:
    settings = Settings(redis_url=f"redis://:secret@127.0.0.1:{free_port()}/0")
    began = time.monotonic()
    with pytest.raises(RedisUnavailable, match=r"redis://:\*\*\*@127"):
        next(following("one", settings))
    assert time.monotonic() - began < 3  # the contract


@both
def test_what_somebody_else_publishes_on_the_channel(hub: Hub, following: Follow) -> None:
    job_id = submit(hub.records)
    lease = claim(hub.records, job_id)
    follower = Follower(following, job_id, hub.settings)
    wait_until(lambda: subscribers(hub, job_id) == 1)
    for garbage in ("", "hello", '{"v":1,"seq":"x"}', '{"v":9}', "[" * 5000, b"\xff\xfe"):
        hub.client.publish(hub.keys.events(job_id), garbage)
    hub.records.leases.publish(lease, [tagged(Log(lines=("after",)))])
    finish(hub.records, lease, events.Succeeded())
    assert in_order(follower.result(), 3)


def as_a_replica_had_it(hub: Hub, job_id: str, last: int) -> None:
    """A failover has lost what came after the event ``last``: each was answered, and published."""
    client, keys = hub.client, hub.keys
    for stream in (keys.history(job_id), keys.tail(job_id)):
        for row, _ in client.xrange(stream, f"({last}-0"):  # type: ignore[union-attr]  # no client of asyncio's
            client.xdel(stream, row)
        client.execute_command("XSETID", stream, f"{last}-0")  # as it was there
    client.hset(keys.job(job_id), "seq", last)


@both
@pytest.mark.parametrize("more", [0, 4], ids=["behind", "as far again"])
def test_what_a_failover_has_lost_is_said_and_what_follows_is_told(
    hub: Hub, following: Follow, more: int
) -> None:
    """Events 4 to 7 are lost; others have their numbers then, the end among them."""
    records = hub.records
    job_id = submit(records)
    lease = claim(records, job_id)
    say(records, lease, 3)
    one = following(job_id, hub.settings)
    heard = [next(one) for _ in range(7)]
    as_a_replica_had_it(hub, job_id, 3)
    for number in range(more - 1):
        records.leases.publish(lease, [tagged(log(f"new {number}"))])
    finish(records, lease, events.Succeeded())
    rest = list(one)
    assert in_order(heard, 7)
    assert rest[0].event == Truncated(from_seq=4, to_seq=7)
    assert [found.seq for found in rest[1:]] == list(range(4, 4 + max(more, 1)))
    assert rest[-1].event == events.Succeeded()


@both
def test_the_end_of_a_wiped_job_that_is_submitted_again(hub: Hub, following: Follow) -> None:
    records = hub.records
    job_id = submit(records, job_id="again")
    say(records, claim(records, job_id), 3)
    one = following(job_id, hub.settings)
    assert in_order([next(one) for _ in range(7)], 7)
    records.client.flushdb()
    submit(records, job_id="again")
    finish(records, claim(records, job_id), events.Succeeded())
    assert [found.type for found in one] == ["truncated", "queued", "succeeded"]


@both
def test_a_job_that_is_over_and_whose_end_is_not_kept(hub: Hub, following: Follow) -> None:
    records = hub.records
    job_id = submit(records)
    lease = claim(records, job_id)
    finish(records, lease, events.Succeeded())
    records.client.delete(hub.keys.history(job_id))
    one = following(job_id, hub.settings)
    with pytest.raises(UnknownJob, match="its end is not kept"):
        list(one)
