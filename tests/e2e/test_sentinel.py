"""The primary dies while a job runs, and Sentinel makes the replica the primary."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.state import JobState
from tests.support.cluster import Cluster
from tests.support.live_node import LiveNode
from tests.support.sentinels import Sentinels
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


@pytest.fixture
def sentinels() -> Iterator[Sentinels]:
    with Sentinels() as made:
        yield made


def test_a_job_lives_through_a_failover(sentinels: Sentinels, tmp_path: Path) -> None:
    """It runs once, its stream has no gap, `.get()` returns, and the next job runs."""
    node = LiveNode(
        directory=tmp_path, redis_url=sentinels.url, slots=1, lease_ttl=60.0, lease_grace=30.0
    )
    try:
        cluster = Cluster.of(node.start())
        go = tmp_path / "go"
        script = f"""
import os, time
number = 0
while not os.path.exists({str(go)!r}):
    print("line", number, flush=True)
    number += 1
    time.sleep(0.05)
"""
        job = cluster.command(script)
        cluster.wait_state(job, JobState.RUNNING)
        wait_until(lambda: cluster.record(job).seq > 5, timeout=30, what="its first lines")
        lost = sentinels.kill_primary()
        wait_until(lambda: sentinels.primary() != lost, timeout=60, what="the failover")
        wait_until(lambda: heard(cluster, job.id) > 10, timeout=60, what="news after it")
        go.touch()
        assert job.get(timeout=90)["attempt"] == 1
        lines = cluster.logged(job)
        assert lines == [f"line {number}" for number in range(len(lines))]
        assert cluster.shell("true").get(timeout=90)["attempt"] == 1
        cluster.wait_clean()
        cluster.close()
    finally:
        node.close()


def heard(cluster: Cluster, job_id: str) -> int:
    """How many events the present primary has; 0 while there is none."""
    import redis

    try:
        return cluster.app.records.get(job_id).seq
    except redis.RedisError:
        return 0
