"""1,000 nodes, 10,000 queued jobs and 200 followers on one Redis: what it costs, and how it grows.

Nodes are simulated: each is the very script that an agent's heartbeat runs, with the queues, the
slots and the record of a node with 8 slots, every ten seconds; the beats are spread over the ten
seconds, as those of real nodes are. Followers are real ones. Queries are `tasks.cluster`'s, while
all that goes on. The rate of enqueuing is that of `send_task` by one producer, beside that of a
bare Celery task. Redis's share of a CPU is read from its own account.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import redis
from celery import Celery

from benchmarks import report, support
from benchmarks.report import Measure, Report
from tasks.celery import make_app
from tasks.choices import Device
from tasks.cluster import Cluster
from tasks.events import Log
from tasks.following import follow_async
from tasks.job import JobConfig
from tasks.keys import NODE_TTL_S
from tasks.ladders import SandboxClass
from tasks.needs import needs_of
from tasks.publishing import TRAIN
from tasks.record import Claimed, Lease, Records, tagged
from tasks.routing import SlotOffer, classes_for, direct_queue, route
from tasks.settings import Settings
from worker.node.identity import NodeIdentity
from worker.node.registry import NodeRecord, NodeRegistry, NodeState, Offer, SlotEntry

NODES: Final = (100, 300, 1000)
SLOTS: Final = 8
JOBS: Final = 10_000
"""Queued; `SENT` of them as producers do it, the rest by the script that this ends in."""
SENT: Final = 2_000
FOLLOWERS: Final = 200
EVENTS_PER_S: Final = 200
"""That the followed jobs publish, all together."""
SECONDS: Final = 10.0
"""For which each size is looked at."""
BEAT_S: Final = NODE_TTL_S / 3
QUERIES: Final = 200
"""Of each kind."""


def beat(url: str, count: int, ready: Any, stop: Any) -> None:
    """A process: so many nodes that beat, until ``stop``."""
    settings = Settings(redis_url=url)
    client = settings.connect()
    nodes = [_node(client, settings, number) for number in range(count)]
    for registry, record in nodes:
        registry.beat(record)
    ready.set()
    due = time.monotonic()
    while not stop.is_set():
        for registry, record in nodes:
            due += BEAT_S / count
            if stop.wait(max(0.0, due - time.monotonic())):
                break
            registry.beat(record)
    for registry, _ in nodes:
        registry.leave()
    client.close()


@contextmanager
def beside(target: Callable[..., None], *args: Any) -> Iterator[None]:
    """A process of its own, so that what is measured here does not wait for its interpreter."""
    context = multiprocessing.get_context("spawn")
    ready, stop = context.Event(), context.Event()
    process = context.Process(target=target, args=(*args, ready, stop))
    process.start()
    try:
        support.wait_for(ready.is_set)
        yield
    finally:
        stop.set()
        process.join(30)
        process.kill()


def _node(client: redis.Redis, settings: Settings, number: int) -> tuple[NodeRegistry, NodeRecord]:
    """A node with one GPU slot in four, as large as servers are."""
    name = f"node-{number:04d}"
    who = NodeIdentity(
        name=name,
        node_id=f"{number:032x}",
        instance=f"{number:032x}",
        hostname=name,
        boot_id="boot",
        pid=1,
        started=time.time(),
    )
    sandboxes = frozenset({SandboxClass.REQUIRED, SandboxClass.OPTIONAL})
    cpu = SlotOffer(device=Device.CPU, memory_mb=64_000, sandboxes=sandboxes)
    gpu = SlotOffer(
        device=Device.CUDA, memory_mb=64_000, gpu_memory_mb=80_000, width=1, sandboxes=sandboxes
    )
    queues = {one.name for offer in (cpu, gpu) for one in classes_for(offer)}
    kinds = ["gpu" if slot % 4 == 0 else "cpu" for slot in range(SLOTS)]
    slots = tuple(
        SlotEntry(name=f"{kind}{slot}", kind=kind, state="ready") for slot, kind in enumerate(kinds)
    )
    record = NodeRecord(
        name=name,
        node_id=who.node_id,
        instance=who.instance,
        state=NodeState.READY,
        started=who.started,
        hostname=name,
        pid=1,
        slots=slots,
        pool="",
        labels={"site": "hall-7", "rack": f"r{number % 40}"},
        mode="auto",
        offer=Offer(
            queues=tuple(sorted({*queues, direct_queue(name)})),
            slots={
                kind: tuple(one.name for one in slots if one.kind == kind)
                for kind in ("cpu", "gpu")
            },
        ),
    )
    return NodeRegistry(client, settings.keys, who), record


def config(number: int) -> dict[str, Any]:
    """A job of one of some classes, priorities and users."""
    return {
        "command": ["true"],
        "job_id": f"job-{number}",
        "user_id": f"user-{number % 50}",
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
        claimed = app.records.claim(
            job_id, owner=job_id, node="elsewhere", slot=f"cpu{number}", ttl_ms=3_600_000,
            delivery_tag="",
        )  # fmt: skip
        assert isinstance(claimed, Claimed), claimed
        leases.append(claimed.lease)
    return leases


def publish(url: str, leases: list[Lease], ready: Any, stop: Any) -> None:
    """A process: the jobs print a line in turns."""
    settings = Settings(redis_url=url)
    records = Records(settings.connect(), settings.keys)
    ready.set()
    for number in itertools.count():
        if stop.wait(1 / EVENTS_PER_S):
            return
        records.publish(leases[number % FOLLOWERS], [tagged(Log(lines=("a line of a job",)))])


def follow(url: str, ready: Any, stop: Any) -> None:
    """A process: a follower for each of the jobs."""
    asyncio.run(_follow(Settings(redis_url=url), ready, stop))


async def _follow(settings: Settings, ready: Any, stop: Any) -> None:
    async def one(job_id: str) -> None:
        async for _ in follow_async(job_id, settings=settings):
            pass

    following = [asyncio.ensure_future(one(f"followed-{number}")) for number in range(FOLLOWERS)]
    ready.set()
    while not stop.is_set():
        await asyncio.sleep(0.1)
    for task in following:
        task.cancel()
    await asyncio.gather(*following, return_exceptions=True)


def queries(cluster: Cluster) -> dict[str, Callable[[], object]]:
    """Every question that `tasks.cluster` answers, each with a page of an answer."""
    return {
        "capacity": cluster.capacity,
        "nodes, a page of 100": cluster.nodes,
        "queues": cluster.queues,
        "states": cluster.states,
        "users": cluster.users,
        "jobs, a page of 100": cluster.jobs,
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
        cluster = Cluster(client, settings.keys)
        leases = claim_followed(app)
        with beside(publish, url, leases), beside(follow, url):
            for count in NODES:
                with beside(beat, url, count):
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
        figures["nodes whose heartbeats take half a CPU"] = 50 / max(a_node, 1e-3)
        client.close()
    most = max(p99[NODES[-1]].values())
    growth = sum(p50[NODES[-1]].values()) / sum(p50[NODES[0]].values())
    return Report(
        name="cluster",
        figures=figures,
        measures=(
            Measure(name="Redis CPU, of one core", ratio=cpu / 100, bound=0.5, at_most=True),
            Measure(name="slowest query's p99 / 50 ms", ratio=most / 50, bound=1.0, at_most=True),
            # every answer is a page, so as large with 1,000 nodes as with 100
            Measure(name="all p50, 1,000 nodes / 100", ratio=growth, bound=2.0, at_most=True),
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
