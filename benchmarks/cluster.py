"""1,000 nodes, 10,000 queued jobs and 200 followers on one Redis: what it costs, and how it grows.

Nodes that beat and are scraped, and followers, are in `benchmarks.cluster_load`. Queries are
`tasks.cluster`'s, while all that goes on. The rate of enqueuing is that of `send_task` by one
producer, beside that of a bare Celery task. Redis's share of a CPU is read from its own account.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import redis
from celery import Celery

from benchmarks import report, support
from benchmarks.cluster_load import (
    FOLLOWERS,
    beat,
    beside,
    follow,
    node_name,
    publish,
    scrape,
)
from benchmarks.report import Measure, Report
from tasks.celery import make_app
from tasks.cluster import Cluster
from tasks.events import Succeeded
from tasks.job import JobConfig
from tasks.leases import tagged
from tasks.needs import needs_of
from tasks.publishing import TRAIN
from tasks.record import Records
from tasks.recorded import Claimed, Lease
from tasks.routing import route
from tasks.settings import Settings
from tasks.state import JobState
from tasks.usage import today
from worker.node.indexing import Indexing

NODES: Final = (100, 300, 1000)
JOBS: Final = 10_000
"""Queued; `SENT` of them as producers do it, the rest by the script that this ends in."""
SENT: Final = 2_000
SECONDS: Final = 10.0
"""For which each size is looked at."""
QUERIES: Final = 200
"""Of each kind."""
USERS: Final = 50
PAST: Final = 2_000
"""Jobs that are over, of those users."""


def config(number: int) -> dict[str, Any]:
    """A job of one of some classes, priorities and users."""
    return {
        "command": ["true"],
        "job_id": f"job-{number}",
        "user_id": f"user-{number % USERS}",
        "required_device": ("cpu", "cuda", "any", "rocm")[number % 4],
        "priority": ("low", "normal", "high")[number % 3],
    }


def enqueue(app: Any, count: int) -> float:
    """Submit so many jobs; how many a second."""
    begin = time.perf_counter()
    for number in range(count):
        app.send_task(TRAIN, [config(number)])
    return count / (time.perf_counter() - begin)


def record(records: Records, first: int, after: int) -> None:
    """The records and indexes of more jobs, by the script that `enqueue` ends in."""
    for number in range(first, after):
        job = JobConfig.parse(config(number))
        way = route(job)
        records.submit(
            job_id=f"job-{number}",
            spec=job.canonical(),
            queue=way.queue,
            priority_step=way.priority_step,
            user_id=job.user_id,
            max_attempts=job.max_attempts,
            expires_ms=0,
            message="",
            needs=needs_of(way.queue),
        )


def enqueue_bare(app: Celery, count: int) -> float:
    """As `enqueue`, of a bare Celery task with an argument as large."""
    begin = time.perf_counter()
    for number in range(count):
        app.send_task("run", [{"command": ["true"], "job_id": f"job-{number}", "user": "user"}])
    return count / (time.perf_counter() - begin)


def claim_followed(app: Any) -> list[Lease]:
    """The jobs that followers follow, running; their leases."""
    leases = []
    for number in range(FOLLOWERS):
        job_id = f"followed-{number}"
        app.send_task(TRAIN, [{"command": ["true"], "job_id": job_id}])
        claimed = app.records.leases.claim(
            job_id, owner=job_id, node="elsewhere", slot=f"cpu{number}", ttl_ms=3_600_000,
            delivery_tag="",
        )  # fmt: skip
        assert isinstance(claimed, Claimed), claimed
        leases.append(claimed.lease)
    return leases


def end_some(records: Records) -> None:
    """The last of the jobs run and end; their users have used a node, and have a past."""
    for number in range(JOBS - PAST, JOBS):
        claimed = records.leases.claim(
            f"job-{number}", owner="o", node="elsewhere", slot="gpu0", ttl_ms=60_000,
            delivery_tag="", gpus=1,
        )  # fmt: skip
        assert isinstance(claimed, Claimed), claimed
        records.leases.finish(
            claimed.lease, JobState.SUCCEEDED, [tagged(Succeeded())], reason=None, message="",
            result={},
        )  # fmt: skip


def queries(cluster: Cluster) -> dict[str, Callable[[], object]]:
    """Every question that `tasks.cluster` answers, each with a page of an answer."""
    day = today(cluster.client)
    return {
        "capacity": cluster.capacity,
        "nodes, a page of 100": cluster.nodes,
        "queues": cluster.queues,
        "states": cluster.states,
        "users": cluster.users,
        "jobs, a page of 100": cluster.jobs,
        "jobs of a user that are queued, 20": lambda: cluster.jobs(
            user_id="user-7", states=(JobState.QUEUED,), limit=20
        ),
        "node": lambda: cluster.node(node_name(7)),
        f"usage of a day, {USERS} users": lambda: list(cluster.usage(day, day)),
        "find_nodes, a page of 20": lambda: cluster.find_nodes(
            {"command": ["true"], "required_device": "cuda"}, limit=20
        ),
        "explain": lambda: cluster.explain(f"job-{JOBS // 2}"),
    }


def ask(cluster: Cluster) -> dict[str, list[float]]:
    """Milliseconds of each query, in turns."""
    asked = queries(cluster)
    found: dict[str, list[float]] = {name: [] for name in asked}
    for _ in range(QUERIES):
        for name, query in asked.items():
            begin = time.perf_counter()
            query()
            found[name].append((time.perf_counter() - begin) * 1000)
    return found


@contextmanager
def watched(client: redis.Redis) -> Iterator[dict[str, float]]:
    """Redis's own account of the time within."""

    def account() -> tuple[float, float, int]:
        info: Any = client.info()
        cpu = info["used_cpu_user"] + info["used_cpu_sys"]
        return time.monotonic(), cpu, info["total_commands_processed"]

    found: dict[str, float] = {}
    before = account()
    yield found
    after = account()
    seconds = after[0] - before[0]
    found["cpu"] = (after[1] - before[1]) / seconds
    found["ops"] = (after[2] - before[2]) / seconds


def measure() -> Report:
    """Each size beside the smallest one; Redis at the largest."""
    figures: dict[str, float] = {}
    p50: dict[int, dict[str, float]] = {}
    p99: dict[int, dict[str, float]] = {}
    with support.redis_hub() as url:
        settings = Settings(redis_url=url)
        app = make_app(settings, include=())
        bare = Celery("bare", broker=settings.celery_url, set_as_current=False)
        enqueue_bare(bare, 200)  # connections and imports
        figures["bare Celery, enqueued/s"] = enqueue_bare(bare, SENT)
        client = settings.connect()
        empty = _memory_kb(client)
        figures["enqueued/s"] = enqueue(app, SENT)
        figures["Redis memory per queued job, KB"] = (_memory_kb(client) - empty) / SENT
        record(app.records, SENT, JOBS)
        end_some(app.records)
        record(app.records, JOBS, JOBS + PAST)  # so that so many wait again
        Indexing(app.records).whole()
        cluster = Cluster(client, settings.keys)
        leases = claim_followed(app)
        with beside(publish, url, leases), beside(follow, url):
            for count in NODES:
                with beside(beat, url, count), beside(scrape, url, count):
                    with watched(client) as seen:
                        time.sleep(SECONDS)
                    asked = ask(cluster)
                p50[count] = {name: statistics.median(ms) for name, ms in asked.items()}
                p99[count] = {name: support.percentile(ms, 0.99) for name, ms in asked.items()}
                figures[f"{count} nodes: Redis CPU, %"] = seen["cpu"] * 100
                figures[f"{count} nodes: Redis commands/s"] = seen["ops"]
                for name in asked:
                    figures[f"{count} nodes: {name}, p50 ms"] = p50[count][name]
                    figures[f"{count} nodes: {name}, p99 ms"] = p99[count][name]
        cpu = figures[f"{NODES[-1]} nodes: Redis CPU, %"]
        few = figures[f"{NODES[0]} nodes: Redis CPU, %"]
        a_node = (cpu - few) / (NODES[-1] - NODES[0])
        figures["nodes whose heartbeats and scrapes take half a CPU"] = 50 / max(a_node, 1e-3)
        client.close()
    most = max(p99[NODES[-1]].values())
    growth = {name: p50[NODES[-1]][name] / p50[NODES[0]][name] for name in p50[NODES[0]]}
    for name, ratio in growth.items():
        figures[f"growth of {name}, 1,000 nodes / 100"] = ratio
    return Report(
        name="cluster",
        figures=figures,
        measures=(
            Measure(name="Redis CPU, of one core", ratio=cpu / 100, bound=0.5, at_most=True),
            Measure(name="slowest query's p99 / 50 ms", ratio=most / 50, bound=1.0, at_most=True),
            # every answer is a page, so as large with 1,000 nodes as with 100
            Measure(
                name="p50 of the query that grows most, 1,000 nodes / 100",
                ratio=max(growth.values()),
                bound=1.5,
                at_most=True,
            ),
            Measure(
                name="enqueued, of bare Celery's rate",
                ratio=figures["enqueued/s"] / figures["bare Celery, enqueued/s"],
                bound=0.25,
                at_most=False,
            ),
        ),
    )


def _memory_kb(client: redis.Redis) -> float:
    info: Any = client.info("memory")
    return float(info["used_memory_dataset"]) / 1024


if __name__ == "__main__":
    report.main(measure)
