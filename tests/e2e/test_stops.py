"""A node is stopped and started again: for an upgrade, with fewer slots, drained, without Redis."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.state import JobState
from tests.support.cluster import Cluster
from tests.support.redis_server import RedisServer
from tests.support.talker import LONG, Talker, check_whole, logs
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

Start = Callable[..., Cluster]


def test_a_node_is_upgraded_and_its_job_does_not_notice(
    start_cluster: Start, tmp_path: Path
) -> None:
    """For longer than its lease would hold, with another node that would take it."""
    cluster = start_cluster("node-a", lease_ttl=1.5, lease_grace=1.0)
    client = cluster.app.records.client
    talker = Talker(cluster, tmp_path)
    job = talker.submit()
    start_cluster("node-b", lease_ttl=1.5, lease_grace=1.0)
    [pid] = cluster.node.job_pids()
    assert cluster.node.leave() == 0
    began = client.time()[0]
    wait_until(lambda: client.time()[0] > began + 3, timeout=20, what="two leases' time to pass")
    assert cluster.node.job_pids() == [pid]
    cluster.node.start()
    cluster.wait_adopted(job)
    talker.wait_heard(job, 5)
    result = talker.finish(job)
    check_whole(cluster, job, result)
    assert result["node"] == "node-a"
    cluster.wait_clean()
    assert cluster.node.stop() == 0


def test_a_node_comes_back_with_fewer_slots(start_cluster: Start, tmp_path: Path) -> None:
    """What the others ran goes on, and they take nothing more."""
    cluster = start_cluster(slots=2, **LONG)
    talkers = [Talker(cluster, tmp_path / name) for name in ("one", "two")]
    for talker in talkers:
        talker.go.parent.mkdir()
    jobs = [talker.submit() for talker in talkers]
    slots = [cluster.owner(job).split("@")[0] for job in jobs]
    pids = cluster.node.job_pids()
    assert sorted(slots) == ["cpu0", "cpu1"]
    assert cluster.node.leave() == 0
    cluster.node.slots = 1
    cluster.node.start()
    for job in jobs:
        cluster.wait_adopted(job)
    assert cluster.node.job_pids() == pids
    third = cluster.shell("true")
    for slot in ("cpu1", "cpu0"):
        talker, job = talkers[slots.index(slot)], jobs[slots.index(slot)]
        result = talker.finish(job)
        check_whole(cluster, job, result)
        assert result["slot"] == slot
        if slot == "cpu1":
            wait_until(lambda: not cluster.node.paths.slot_record("cpu1").exists(), what="its end")
            assert cluster.record(third).state is JobState.QUEUED, "that slot is no more"
    assert third.get(timeout=60)["slot"] == "cpu0"
    cluster.wait_clean()


def test_a_node_is_cordoned_and_stopped_and_comes_back(
    start_cluster: Start, tmp_path: Path
) -> None:
    """It takes no new job, and goes on with its own."""
    cluster = start_cluster(**LONG)
    talker = Talker(cluster, tmp_path)
    job = talker.submit()
    assert cluster.node.command("cordon", cluster.node.name) == 0
    wait_until(lambda: "node cordoned" in cluster.node.said, what="the cordon")
    assert cluster.node.leave() == 0
    cluster.node.launch()
    cluster.wait_adopted(job)
    other = cluster.shell("true")
    result = talker.finish(job)
    check_whole(cluster, job, result)
    wait_until(lambda: not cluster.node.paths.slot_record("cpu0").exists(), what="its worker's end")
    assert cluster.record(other).state is JobState.QUEUED
    assert cluster.node.command("uncordon", cluster.node.name) == 0
    assert other.get(timeout=60)["slot"] == "cpu0"
    cluster.wait_clean()


def test_a_node_is_drained_while_it_is_away_and_comes_back(
    start_cluster: Start, tmp_path: Path
) -> None:
    """Its jobs have had their time: they go back to the queue, and end elsewhere."""
    cluster = start_cluster(**LONG)
    talker = Talker(cluster, tmp_path)
    job = talker.submit()
    assert cluster.node.leave() == 0
    assert cluster.node.job_pids()
    assert cluster.node.command("drain", cluster.node.name) == 0
    cluster.node.launch()
    assert cluster.wait_state(job, JobState.QUEUED).attempt == 0, "it does not count"
    cluster.wait_clean()
    wait_until(lambda: not cluster.node.paths.slot_record("cpu0").exists(), what="its worker's end")
    assert cluster.node.command("drain", cluster.node.name, "--wait") == 0
    other = start_cluster("node-b", **LONG)
    result = talker.finish(job)
    assert (result["node"], result["attempt"]) == (other.node.name, 1)


def test_a_job_that_has_ended_while_its_node_was_away_is_done_although_that_is_drained(
    start_cluster: Start, tmp_path: Path
) -> None:
    """There is nothing to hand back: it does not run again elsewhere."""
    cluster = start_cluster(**LONG)
    talker = Talker(cluster, tmp_path)
    job = talker.submit()
    assert cluster.node.leave() == 0
    talker.go.touch()
    wait_until(lambda: not cluster.node.job_pids(), timeout=20, what="its end")
    assert cluster.node.command("drain", cluster.node.name) == 0
    cluster.node.launch()
    check_whole(cluster, job, job.get(timeout=60))
    cluster.wait_clean()


def test_a_worker_is_killed_while_its_node_waits_for_the_job(
    start_cluster: Start, tmp_path: Path
) -> None:
    """A drain lets jobs end, whatever becomes of their workers."""
    cluster = start_cluster(**LONG)
    talker = Talker(cluster, tmp_path)
    job = talker.submit()
    process, worker = cluster.node.process, cluster.node.worker()
    assert process is not None
    assert worker is not None
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: "node stopping" in cluster.node.said, what="the drain")
    os.kill(worker, signal.SIGKILL)
    cluster.wait_adopted(job)
    talker.go.touch()
    assert process.wait(30) == 0
    assert cluster.record(job).state is JobState.SUCCEEDED
    check_whole(cluster, job, job.get(timeout=10))
    cluster.wait_clean()


def test_the_command_that_stops_a_node(start_cluster: Start, tmp_path: Path) -> None:
    cluster = start_cluster(**LONG)
    talker = Talker(cluster, tmp_path)
    job = talker.submit()
    assert cluster.node.command("node", "stop") == 0
    assert cluster.node.process is not None
    assert cluster.node.process.wait(10) == 0
    assert cluster.node.job_pids()
    assert cluster.node.command("node", "stop") == 10, "there is none"
    cluster.node.start()
    cluster.wait_adopted(job)
    assert cluster.node.command("node", "stop", "--now") == 0
    assert not cluster.node.job_pids()
    assert cluster.record(job).state is JobState.QUEUED
    cluster.forget_hand_back(job)
    cluster.node.start()
    talker.go.touch()
    assert job.get(timeout=60)["attempt"] == 1, "a hand-back is no attempt"
    cluster.wait_clean()


def test_the_data_of_redis_is_wiped_just_before_a_node_stops(
    start_cluster: Start, tmp_path: Path
) -> None:
    """Nobody has found out yet: the stop does, and writes the records again."""
    cluster = start_cluster(slots=2, **LONG)
    quiet, loud = (Talker(cluster, tmp_path / name) for name in ("quiet", "loud"))
    for talker in (quiet, loud):
        talker.go.parent.mkdir()
    quiet.every = 0.5
    jobs = [talker.submit() for talker in (quiet, loud)]
    pids = cluster.node.job_pids()
    os.kill(pids[0], signal.SIGSTOP)  # it says nothing, so no news of it finds out either
    cluster.app.records.client.flushall()
    assert cluster.node.leave() == 0
    assert cluster.node.job_pids() == pids
    os.kill(pids[0], signal.SIGCONT)
    for job in jobs:
        assert cluster.record(job).state is JobState.RUNNING
    cluster.node.start()
    for job in jobs:
        cluster.wait_adopted(job)
    for talker, job in zip((quiet, loud), jobs, strict=True):
        assert talker.finish(job)["attempt"] == 1
    cluster.wait_clean()


def test_a_node_stops_while_redis_is_away(
    start_cluster: Start, server: RedisServer, tmp_path: Path
) -> None:
    """What a job says meanwhile waits with its keeper, and no stop waits for Redis."""
    cluster = start_cluster(**LONG)
    talker = Talker(cluster, tmp_path)
    job = talker.submit()
    pids = cluster.node.job_pids()
    server.freeze()
    try:
        assert cluster.node.leave(60) == 0
        assert cluster.node.job_pids() == pids
    finally:
        server.thaw()
    assert "attempt.left " in logs(cluster), "by its supervisor, who did not wait to be killed"
    cluster.node.start()
    cluster.wait_adopted(job)
    check_whole(cluster, job, talker.finish(job))
    cluster.wait_clean()


def test_a_node_that_does_not_come_back_in_time_loses_its_job(
    start_cluster: Start, tmp_path: Path
) -> None:
    away = {"timeouts": {"away": 1.0}}
    first = start_cluster("node-a", lease_ttl=1.5, lease_grace=1.0, extra=away)
    talker = Talker(first, tmp_path)
    job = talker.submit()
    second = start_cluster("node-b", lease_ttl=1.5, lease_grace=1.0)
    assert first.node.leave() == 0
    wait_until(lambda: second.node.job_pids(), timeout=30, what="it to run elsewhere")
    wait_until(lambda: not first.node.job_pids(), timeout=30, what="its end here")
    assert talker.finish(job)["node"] == "node-b"
    second.wait_clean()
    first.node.start()
    first.wait_clean()
