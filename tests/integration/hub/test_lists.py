"""Lists of jobs: what is in them, and how much is read for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from tasks import listing
from tasks.cluster import Cluster
from tasks.events import Succeeded
from tasks.job import JobConfig
from tasks.record import Records
from tasks.recorded import Claimed
from tasks.state import JobState
from tests.conftest import Hub
from tests.integration.hub.support import (
    claim,
    finish,
    job_config,
    restore,
    run_out,
    submit,
    try_claim,
)
from worker.node.indexing import AGAIN_S, Indexing

pytestmark = pytest.mark.integration

ENDED = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.REJECTED)


@pytest.fixture
def indexed(records: Records) -> Indexing:
    """The reaper has gone through all jobs."""
    found = Indexing(records)
    found.step(0.0)
    return found


def names(cluster: Cluster, user: str, *states: JobState) -> list[str]:
    """Page by page."""
    found, after = [], ""
    while True:
        page = cluster.jobs(user_id=user, states=states, limit=2, after=after)
        found += [one.job_id for one in page.items]
        if not page.next:
            return found
        after = page.next


def reads(hub: Hub, ask: Callable[[], object]) -> int:
    """How many records and how many indexes are read for an answer."""

    def calls() -> int:
        info: Any = hub.client.info("commandstats")
        counted = ("hmget", "hgetall", "hget", "zrevrangebyscore", "zrange", "exists")
        return sum(info.get(f"cmdstat_{name}", {}).get("calls", 0) for name in counted)

    before = calls()
    ask()
    return calls() - before


def past(records: Records, numbers: Iterable[int], user: str) -> None:
    """Jobs that are over."""
    for number in numbers:
        records.cancel(submit(records, job_id=f"{user}-{number}", user_id=user), "")


def test_jobs_of_a_user_in_some_states(
    records: Records, cluster: Cluster, indexed: Indexing
) -> None:
    ids = [submit(records, job_id=f"job-{number}", user_id="ann") for number in range(6)]
    submit(records, user_id="bob")
    submit(records)
    finish(records, claim(records, ids[0]), Succeeded())
    records.cancel(ids[1], "")
    claim(records, ids[2])
    records.leases.publish(claim(records, ids[3]), [], state=JobState.RUNNING)
    assert set(names(cluster, "ann", JobState.QUEUED)) == {ids[4], ids[5]}
    assert names(cluster, "ann", JobState.STARTING, JobState.RUNNING) == [ids[3], ids[2]]
    assert names(cluster, "ann", *ENDED) == [ids[1], ids[0]], "the last end first"
    assert names(cluster, "ann", JobState.FAILED) == []
    assert set(names(cluster, "ann")) == set(ids)
    assert names(cluster, "eve", JobState.QUEUED) == []


def test_what_is_read_does_not_grow_with_what_is_over(
    records: Records, cluster: Cluster, hub: Hub, indexed: Indexing
) -> None:
    waiting = [submit(records, user_id="ann") for _ in range(3)]
    running = claim(records, submit(records, user_id="ann"))

    def ask() -> list[int]:
        found = []
        for states in ((JobState.QUEUED,), (JobState.STARTING, JobState.RUNNING)):
            found.append(reads(hub, lambda states=states: names(cluster, "ann", *states)))
        return found

    past(records, range(10), "ann")
    few = ask()
    past(records, range(10, 1_500), "ann")
    assert ask() == few
    assert max(few) <= 12
    assert set(names(cluster, "ann", JobState.QUEUED)) == set(waiting)
    assert names(cluster, "ann", JobState.STARTING) == [running.job_id]
    page = cluster.jobs(user_id="ann", states=ENDED, limit=5)
    assert (len(page.items), page.next != "") == (5, True)
    whole = reads(hub, lambda: cluster.jobs(user_id="ann", states=ENDED, limit=5))
    assert whole <= 12, "a page of the past reads a page"


def test_the_reaper_takes_in_what_other_versions_left(
    records: Records, cluster: Cluster, hub: Hub
) -> None:
    past(records, range(300), "ann")
    queued, moved = (submit(records, user_id="ann") for _ in range(2))
    client, keys = hub.client, hub.keys
    for key in client.scan_iter(match=keys.by_state_and_user("*", "ann"), count=1000):
        client.delete(key)  # as if an earlier version had recorded them all
    assert set(names(cluster, "ann", JobState.QUEUED)) == {queued, moved}, "from all of theirs"
    reaper = Indexing(records)
    steps = 0
    while not client.exists(keys.indexed):
        reaper.step(0.0)
        steps += 1
    assert steps > 1, "a few at a time"
    assert reads(hub, lambda: names(cluster, "ann", JobState.QUEUED)) < 12
    assert set(names(cluster, "ann", JobState.QUEUED)) == {queued, moved}
    assert len(names(cluster, "ann", JobState.CANCELLED)) == 300
    assert client.ttl(keys.by_state_and_user("cancelled", "ann")) > 0

    # as a node of an earlier version ends one, while both run
    client.hset(keys.job(moved), "state", "failed")
    client.zrem(keys.by_state("queued"), moved)
    client.zadd(keys.by_state("failed"), {moved: client.zscore(keys.by_user("ann"), moved)})
    assert names(cluster, "ann", JobState.QUEUED) == [queued], "never in a list of what it is not"
    reaper.step(AGAIN_S - 1)
    assert names(cluster, "ann", JobState.FAILED) == []
    for number in range(steps):
        reaper.step(AGAIN_S + number)
    assert names(cluster, "ann", JobState.FAILED) == [moved]
    assert client.zscore(keys.by_state_and_user("queued", "ann"), moved) is None


def test_a_record_that_is_written_again_or_buried(
    records: Records, cluster: Cluster, hub: Hub, indexed: Indexing
) -> None:
    lost, broken = (submit(records, user_id="ann", max_attempts=3) for _ in range(2))
    claimed = try_claim(records, lost)
    assert isinstance(claimed, Claimed)
    hub.client.flushdb()
    restore(records, claimed)
    indexed.step(AGAIN_S)
    assert names(cluster, "ann", JobState.RUNNING) == [lost]
    run_out(records, lost)
    records.upkeep.reap(0)
    assert names(cluster, "ann", JobState.QUEUED) == [lost]
    broken = submit(records, user_id="ann")
    records.upkeep.bury(broken)
    assert names(cluster, "ann", JobState.QUEUED) == [lost]


def test_a_job_that_an_older_version_moved_back_and_forth_is_in_one_index(
    records: Records, cluster: Cluster, hub: Hub, indexed: Indexing
) -> None:
    job_id = submit(records, user_id="ann")
    claim(records, job_id)
    stale = hub.keys.by_state_and_user("queued", "ann")
    hub.client.zadd(stale, {job_id: 1})  # the older version knew no index by user
    indexed.step(AGAIN_S)
    assert hub.client.zrange(stale, 0, -1) == []
    assert names(cluster, "ann", JobState.STARTING) == [job_id]


UNREADABLE: dict[str, dict[str, str]] = {
    "state": {"state": "unheard-of"},
    "attempt": {"attempt": "x"},
    "time": {"submitted": "inf"},
    "spec": {"spec": "{"},
    "no object": {"spec": "[]"},
    "labels": {"spec": '{"labels": [1]}'},
    "deep": {"spec": "[" * 100_000},
    "progress": {"progress": "5"},
}


def test_a_broken_record_is_left_out_of_a_list_and_counts_as_read(
    records: Records,
    cluster: Cluster,
    hub: Hub,
    indexed: Indexing,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = submit(records, user_id="ann", job_id="first")
    for kind, fields in UNREADABLE.items():
        job_id = submit(records, user_id="ann", job_id=f"broken-{kind.replace(' ', '-')}")
        hub.client.hset(hub.keys.job(job_id), mapping=fields)
    of_another_type = hub.keys.job(submit(records, user_id="ann", job_id="broken-type"))
    hub.client.delete(of_another_type)
    hub.client.rpush(of_another_type, "x")
    hub.client.delete(hub.keys.job(submit(records, user_id="ann", job_id="gone")))
    last = submit(records, user_id="ann", job_id="last")
    for states in ((), (JobState.QUEUED,)):
        assert set(names(cluster, "ann", *states)) == {first, last}
    said = {record.getMessage().split()[1] for record in caplog.records}
    assert len([one for one in said if one.startswith("job=broken-")]) == len(UNREADABLE) + 1
    monkeypatch.setattr(listing, "MOST_READ", 5)
    page = cluster.jobs(user_id="ann", limit=3)
    assert (len(page.items), page.next != "") == (1, True), "what is left out is read, too"


BROKEN: dict[str, dict[str, str] | None] = {
    "attempt": {"attempt": "x"},
    "queue": {"queue": "\x00"},
    "state": {"state": "unheard-of"},
    "a list": None,
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_buried_record_is_counted_nowhere(
    kind: str, records: Records, cluster: Cluster, hub: Hub
) -> None:
    job_id, whole, running = (submit(records, user_id="ann") for _ in range(3))
    claim(records, running)
    broken = BROKEN[kind]
    buried = [job_id]
    if broken is None:  # nothing says any more whose it is, nor which slot has it
        hub.client.delete(hub.keys.job(job_id))
        hub.client.rpush(hub.keys.job(job_id), "x")
    else:
        hub.client.hset(hub.keys.job(job_id), mapping=broken)
        hub.client.hset(hub.keys.job(running), mapping=broken)
        buried.append(running)
    for one in buried:
        records.upkeep.bury(one)
        records.upkeep.bury(one)  # a second time changes nothing
    explained = cluster.explain(whole)
    assert (explained.place, explained.length) == (1, 1)
    capacity = cluster.capacity()
    assert (capacity.waiting, hub.client.zcard(hub.keys.waiting(explained.queue))) == (1, 1)
    if broken is not None:
        assert (capacity.running, capacity.kinds["cpu"].busy) == (0, 0)
        assert hub.client.hgetall(hub.keys.holds("node-a")) == {}
        assert dict(cluster.users().items) == {"ann": 1}
        assert hub.client.zrange(hub.keys.by_user("ann"), 0, -1) == [whole]
    records.cancel(whole, "")
    if broken is not None:
        assert dict(cluster.users().items) == {}


def test_a_record_that_had_ended_is_not_taken_off_twice(records: Records, cluster: Cluster) -> None:
    ended = submit(records, user_id="ann")
    submit(records, user_id="ann")
    records.cancel(ended, "")
    records.upkeep.bury(ended)
    assert dict(cluster.users().items) == {"ann": 1}


def test_an_ended_jobs_place_goes_with_its_time(hub: Hub) -> None:
    records = hub.other(result_ttl_s=50).records
    index = hub.keys.by_state_and_user("cancelled", "ann")
    past(records, range(2), "ann")
    assert 0 < hub.client.ttl(index) <= 50
    hub.client.zincrby(index, -60_000, "ann-0")  # it ended a minute ago
    past(records, [2], "ann")
    assert hub.client.zrange(index, 0, -1) == ["ann-1", "ann-2"]


def test_a_page_by_labels_looks_at_so_many_jobs_and_says_that_there_are_more(
    records: Records, cluster: Cluster, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "MOST_READ", 50)
    wanted = submit(records, labels={"site": "a"})
    spec = JobConfig.canonical(job_config(job_id="x"))
    for number in range(120):
        records.submit(
            job_id=f"job-{number}", spec=spec, queue="work.x", priority_step=6, user_id="",
            max_attempts=1, expires_ms=0, message="",
        )  # fmt: skip
    pages, after = [], ""
    while True:
        page = cluster.jobs(labels={"site": "a"}, limit=5, after=after)
        pages.append([one.job_id for one in page.items])
        if not page.next:
            break
        after = page.next
    assert pages == [[], [], [wanted]]
    seen = cluster.jobs(limit=100)
    assert (len(seen.items), seen.next != "") == (100, True), "all of these fit"


def test_states_users_and_jobs(records: Records, cluster: Cluster) -> None:
    mine = [submit(records, user_id="ann") for _ in range(3)]
    submit(records, user_id="bob")
    finish(records, claim(records, mine[0]), Succeeded())
    claim(records, mine[1])
    states = cluster.states()
    assert {state: count for state, count in states.items() if count} == {
        JobState.QUEUED: 2,
        JobState.STARTING: 1,
        JobState.SUCCEEDED: 1,
    }
    assert dict(cluster.users().items) == {"ann": 2, "bob": 1}
    page = cluster.jobs(user_id="ann", limit=2)
    rest = cluster.jobs(user_id="ann", after=page.next)
    assert (len(page.items), len(rest.items), rest.next) == (2, 1, "")
    assert {one.job_id for one in (*page.items, *rest.items)} == set(mine)
    capacity = cluster.capacity()
    assert (capacity.waiting, capacity.running) == (2, 1)
