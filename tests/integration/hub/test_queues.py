"""Queues and those who wait in them, as `tasks.cluster` tells of them."""

from __future__ import annotations

import pytest

from tasks.cluster import Cluster
from tasks.record import Records
from tasks.routing import direct_queue, route
from tasks.state import FailureReason, JobState
from tests.conftest import Hub
from tests.integration.hub.support import CUDA, Enter, claim, job_config, submit
from worker.node.cluster_counts import QUEUES
from worker.node.metrics import cluster_metrics
from worker.node.reaper import Reaper

pytestmark = pytest.mark.integration


def test_queues_tell_of_the_oldest_and_of_who_reads_them(
    records: Records, enter: Enter, cluster: Cluster
) -> None:
    # of two that came within one millisecond the lesser id is first
    first = submit(records, job_id="job-1")
    submit(records, job_id="job-2")
    gpu = submit(records, **CUDA)
    enter("node-a")
    gpus, cpus = cluster.queues().items
    assert (gpus.waiting, gpus.oldest, gpus.servers) == (1, gpu, 0)
    assert gpus.needs.startswith("1 cuda GPU of 24000 MB")
    assert (cpus.waiting, cpus.oldest, cpus.servers) == (2, first, 1)
    assert 0 <= cpus.oldest_seconds < 60
    page = cluster.queues(limit=1)
    assert [one.name for one in page.items] == [gpus.name]
    assert [one.name for one in cluster.queues(limit=1, after=page.next).items] == [cpus.name]


def test_ten_thousand_queued_jobs_are_all_there(
    records: Records, enter: Enter, cluster: Cluster
) -> None:
    enter("node-a")
    spec, queue = job_config(job_id="x").canonical(), route(job_config()).queue
    for number in range(10_000):
        records.submit(
            job_id=f"job-{number}",
            spec=spec,
            queue=queue,
            priority_step=6,
            user_id="ann",
            max_attempts=1,
            expires_ms=0,
            message="",
        )
    (view,) = cluster.queues().items
    assert (view.waiting, view.oldest, view.servers) == (10_000, "job-0", 1)
    found = cluster.explain("job-9999")
    assert (found.place > 9_900, found.length) == (True, 10_000), "by the ms of its submission"
    assert cluster.capacity().waiting == 10_000
    seen, after = set[str](), ""
    while True:
        page = cluster.jobs(user_id="ann", limit=1_000, after=after)
        seen |= {one.job_id for one in page.items}
        if not page.next:
            break
        after = page.next
    assert len(seen) == 10_000
    claim(records, "job-0")
    assert cluster.queues().items[0].waiting == 9_999


def to(records: Records, node: str) -> str:
    """A job for one node; its id."""
    job = job_config()
    assert job.job_id is not None
    records.submit(
        job_id=job.job_id,
        spec=job.canonical(),
        queue=direct_queue(node),
        priority_step=6,
        user_id="",
        max_attempts=3,
        expires_ms=0,
        message="",
    )
    return job.job_id


def known(cluster: Cluster) -> set[str]:
    return {one.name for one in cluster.queues().items}


def test_classes_come_before_nodes_own_queues_page_by_page(
    records: Records, cluster: Cluster
) -> None:
    for number in range(3):
        to(records, f"node-{number}")
    submit(records)
    submit(records, **CUDA)
    found, after = [], ""
    while True:
        page = cluster.queues(limit=2, after=after)
        found += [one.needs.split(",")[0].split(" of ")[0] for one in page.items]
        if not page.next:
            break
        after = page.next
    assert found == ["1 cuda GPU", "a slot", "node node-0", "node node-1", "node node-2"]


def test_an_empty_queue_that_no_live_node_reads_is_forgotten_until_a_job_waits_there(
    records: Records, cluster: Cluster, enter: Enter, hub: Hub
) -> None:
    gone, lives, waits, foreign, delayed = names = [f"node-{name}" for name in "abcde"]
    jobs = {name: to(records, name) for name in names}
    node_a, _ = enter(gone), enter(lives)
    queues = [direct_queue(name) for name in names]
    for name in (gone, lives, foreign):
        records.cancel(jobs[name], "")
    hub.client.lpush(hub.keys.message_list(direct_queue(foreign), 9), "of another program")
    lease = claim(records, jobs[delayed])
    records.leases.requeue(
        lease, [], reason=FailureReason.INTERNAL, message="", delay_ms=3_600_000, counts=True
    )
    assert records.upkeep.forget(queues) == 1, "that of the job that is tried again in an hour"
    node_a.leave()
    assert records.upkeep.forget(queues) == 1
    assert known(cluster) == {direct_queue(name) for name in (lives, waits, foreign)}
    hub.client.zadd(hub.keys.delayed, {jobs[delayed]: 1})  # an hour later
    records.upkeep.reap(0)
    to(records, gone)
    assert known(cluster) == set(queues), "known again"
    assert records.upkeep.forget([]) == 0


def test_the_reaper_forgets_and_metrics_show_classes_first(
    records: Records, cluster: Cluster, hub: Hub
) -> None:
    for number in range(QUEUES + 10):
        to(records, f"node-{number}")
    class_queue = cluster.explain(submit(records)).queue

    def shown() -> set[str]:
        hub.client.delete(hub.keys.cluster_counts)  # as if it were read some seconds ago
        families = {one.name: one for one in cluster_metrics(cluster)}
        samples = families["cyxwiz_cluster_queue_jobs"].samples
        return {one.labels["queue"] for one in samples}

    assert len(shown()) == QUEUES
    assert class_queue in shown()
    for job in cluster.jobs(states=(JobState.QUEUED,), limit=1_000).items:
        records.cancel(job.job_id, "")
        records.mark_result_stored(job.job_id)  # so its message goes
    reaper = Reaper(records, hub.settings, holder="a", tell=lambda _: None)
    reaper.once(100.0)
    assert shown() == set()
    reaper.stop()
