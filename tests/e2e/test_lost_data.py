"""Redis loses its data, a claim or a record, and the jobs go on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.errors import UnknownJob
from tasks.state import JobState
from tests.support.cluster import Cluster
from tests.support.redis_server import RedisServer, free_port
from tests.support.waiting import wait_until
from tests.support.watched import Watched

pytestmark = pytest.mark.e2e

Start = Callable[..., Cluster]


def test_the_data_of_redis_is_wiped_while_a_job_runs(
    start_cluster: Start, server: RedisServer, tmp_path: Path
) -> None:
    """It goes on, its record is written again, and its result is stored; so is that of a job that
    ended at that very moment. A job that was queued is gone, and is said to be unknown."""
    cluster = start_cluster(lease_ttl=60.0, lease_grace=30.0)
    watched = Watched(cluster, tmp_path)
    queued = cluster.command("pass")
    fence = cluster.record(watched.job).fence
    cluster.app.records.client.flushall()
    assert watched.go()["attempt"] == 1
    assert watched.runs == "began ended "
    record = cluster.record(watched.job)
    assert (record.state, record.fence) == (JobState.SUCCEEDED, fence)
    with pytest.raises(UnknownJob):
        cluster.record(queued)
    assert cluster.shell("true").get(timeout=60)["attempt"] == 1
    cluster.wait_clean()


def test_a_short_job_ends_although_its_record_is_lost_under_it(
    start_cluster: Start, server: RedisServer, tmp_path: Path
) -> None:
    """So short that its lease is never renewed: nobody but its end finds that the record is gone.
    It wipes Redis itself, in less time than anything from outside could be sure of."""
    client = server.client()
    port = free_port()
    client.config_set("port", port)
    cluster = start_cluster()
    wipe = f"exec 3<>/dev/tcp/127.0.0.1/{port}; echo FLUSHALL >&3; read -r said <&3; echo $said"
    job = cluster.submit({"command": ["bash", "-c", wipe]})
    wait_until(lambda: client.exists(cluster.settings.keys.job(job.id)), what="its record again")
    assert job.get(timeout=60)["attempt"] == 1
    assert cluster.record(job).state is JobState.SUCCEEDED
    assert cluster.shell("true").get(timeout=60)["attempt"] == 1, "its slot is free"
    cluster.wait_clean()
    client.close()


def test_a_job_whose_record_was_lost_survives_the_next_faults_too(
    start_cluster: Start, tmp_path: Path
) -> None:
    """Its message is known again: it is adopted, and queued again."""
    cluster = start_cluster(lease_ttl=15.0)
    watched = Watched(cluster, tmp_path)
    client, key = cluster.app.records.client, cluster.settings.keys.job(watched.job.id)
    client.flushall()
    wait_until(lambda: client.exists(key), timeout=30, what="its record again")
    os.kill(cluster.node.pool_child(), signal.SIGKILL)
    cluster.wait_adopted(watched.job)
    [directory] = cluster.node.paths.attempts.iterdir()
    os.kill(cluster.node.keeper(directory), signal.SIGKILL)
    watched.wait_began(2)
    watched.ends(attempt=2, runs=2)


def test_redis_is_away_for_longer_than_the_lease_and_comes_back_empty(
    start_cluster: Start, server: RedisServer, tmp_path: Path
) -> None:
    """The job may have been given to another node before Redis forgot: so this one's attempt ends,
    and the job is queued again once nobody else has said that it runs there."""
    cluster = start_cluster(lease_ttl=1.5, lease_grace=20.0)
    watched = Watched(cluster, tmp_path)
    [pid] = cluster.node.job_pids()
    fence = cluster.record(watched.job).fence
    server.freeze()
    wait_until(lambda: cluster.node.stopped(pid), timeout=20, what="the job to stand still")
    server.kill()
    for path in (server.directory / "appendonlydir").iterdir():
        path.unlink()
    server.start()
    wait_until(lambda: watched.runs.count("began") == 2, timeout=60, what="another attempt")
    watched.ends(runs=2)  # an outage is no attempt
    assert cluster.record(watched.job).fence > fence


def test_a_job_whose_claim_a_failover_has_lost_goes_on(
    start_cluster: Start, tmp_path: Path
) -> None:
    """The record is as before the claim, and the message is in its queue again."""
    cluster = start_cluster(lease_ttl=3.0)
    watched = Watched(cluster, tmp_path)
    client, key = cluster.app.records.client, cluster.settings.keys.job(watched.job.id)
    client.hset(key, mapping={"state": "queued", "fence": 0, "attempt": 0, "owner": "", "exp": 0})
    wait_until(lambda: cluster.record(watched.job).state is JobState.RUNNING, what="its claim")
    record = cluster.record(watched.job)
    assert (record.fence, record.attempt) == (1, 1)
    watched.ends()
