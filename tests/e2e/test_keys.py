"""After jobs of all endings, Redis holds nothing of theirs that will not go by itself."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from celery.result import AsyncResult

from tasks.control import cancel
from tasks.state import JobState
from tests.support.cluster import Cluster
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

# Celery's and kombu's own, which are there as long as there are workers; and the indexes.
STANDING = ("_kombu.binding", "node:", "nodes", "queues", "reaper")


def test_50_jobs_of_all_endings(cluster: Cluster, data: Path) -> None:
    prefix = cluster.node.prefix
    done = [cluster.shell(f"echo {number}") for number in range(20)]
    failed = [cluster.shell("exit 3", max_attempts=1) for _ in range(10)]
    rejected = [cluster.shell("true", dataset_uri=f"file://{data}/../x") for _ in range(8)]
    cancelled = [cluster.shell("true") for _ in range(6)]
    random.Random(1).shuffle(cancelled)
    for job in cancelled:
        cancel(job.id, app=cluster.app)
    stopped = [cluster.shell("exec sleep 60") for _ in range(2)]
    late = [cluster.shell("exec sleep 60", timeout_seconds=0.3, max_attempts=1) for _ in range(4)]
    for job in stopped:
        cluster.wait_state(job, JobState.RUNNING)
        cancel(job.id, app=cluster.app)
    everything = [*done, *failed, *rejected, *cancelled, *stopped, *late]
    assert len(everything) == 50
    ends = [cluster.wait_state(job).state for job in everything]
    wait_until(lambda: all(_ready(job) for job in everything), what="Celery's results")
    assert ends[:38] == [
        *[JobState.SUCCEEDED] * 20,
        *[JobState.FAILED] * 10,
        *[JobState.REJECTED] * 8,
    ]
    assert set(ends[38:44]) <= {JobState.CANCELLED, JobState.SUCCEEDED}, "too late for some"
    assert ends[44:] == [*[JobState.CANCELLED] * 2, *[JobState.FAILED] * 4]

    client = cluster.settings.connect()
    keys = sorted(client.scan_iter(count=1000))
    ttls = {key: client.ttl(key) for key in keys}
    client.close()
    assert [key for key in keys if not key.startswith(prefix)] == []
    eternal = [key.removeprefix(prefix) for key, ttl in ttls.items() if ttl < 0]
    assert [key for key in eternal if not key.startswith(STANDING)] == []
    for job in everything:
        mine = {key: ttl for key, ttl in ttls.items() if job.id in key}
        assert {f"{prefix}job:{job.id}", f"{prefix}history:{job.id}"} <= set(mine)
        assert all(ttl > 0 for ttl in mine.values()), mine


def _ready(job: AsyncResult) -> bool:
    return bool(job.ready())
