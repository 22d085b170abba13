"""1,000 nodes, 10,000 queued jobs and 200 followers on one Redis: what it costs, and how it grows.

Nodes are simulated: each is the very script that an agent's heartbeat runs, with the queues, the
slots and the record of a node with 8 slots, every ten seconds; the beats are spread over the ten
seconds, as those of real nodes are. Followers are real ones. Queries are `tasks.cluster`'s, while
all that goes on. The rate of enqueuing is that of `send_task` by one producer, beside that of a
bare Celery task. Redis's share of a CPU is read from its own account.
"""

from __future__ import annotations

import asyncio
import statistics
import threading
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
from tasks.keys import NODE_TTL_S
from tasks.ladders import SandboxClass
from tasks.publishing import TRAIN
from tasks.record import Claimed, tagged
from tasks.routing import SlotOffer, classes_for, direct_queue
from tasks.settings import Settings
from worker.node.identity import NodeIdentity
from worker.node.registry import NodeRecord, NodeRegistry, NodeState, Offer, SlotEntry

NODES: Final = (100, 300, 1000)
SLOTS: Final = 8
JOBS: Final = 10_000
FOLLOWERS: Final = 200
EVENTS_PER_S: Final = 200
"""That the followed jobs publish, all together."""
SECONDS: Final = 10.0
"""For which each size is looked at."""
BEAT_S: Final = NODE_TTL_S / 3
QUERIES: Final = 60
"""Of each kind."""


class Fleet:
    """Nodes that beat, from a thread."""

    def __init__(self, settings: Settings, count: int) -> None:
        self._client = settings.connect()
        self._nodes = [_node(self._client, settings, number) for number in range(count)]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.late_s = 0.0

    def start(self) -> None:
        for registry, record in self._nodes:
            registry.beat(record)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        for registry, _ in self._nodes:
            registry.leave()
        self._client.close()

    def _run(self) -> None:
        due = time.monotonic()
        while True:
            for registry, record in self._nodes:
                due += BEAT_S / len(self._nodes)
                self.late_s = max(self.late_s, time.monotonic() - due)
                if self._stop.wait(max(0.0, due - time.monotonic())):
                    return
                registry.beat(record)


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


def enqueue(app: Any, count: int) -> float:
    """Submit so many jobs of some classes; how many a second."""
    begin = time.perf_counter()
    for number in range(count):
        app.send_task(
            TRAIN,
            [
                {
                    "command": ["true"],
                    "job_id": f"job-{number}",
                    "user_id": f"user-{number % 50}",
                    "required_device": ("cpu", "cuda", "any", "rocm")[number % 4],
                    "priority": ("low", "normal", "high")[number % 3],
                }
            ],
        )
    return count / (time.perf_counter() - begin)


def enqueue_bare(app: Celery, count: int) -> float:
    """As `enqueue`, of a bare Celery task with an argument as large."""
    begin = time.perf_counter()
    for number in range(count):
        app.send_task("run", [{"command": ["true"], "job_id": f"job-{number}", "user": "user"}])
    return count / (time.perf_counter() - begin)


class Followers:
    """200 of them, each on a job of its own that prints now and then; from threads."""

    def __init__(self, settings: Settings, app: Any) -> None:
        self._settings = settings
        self._app = app
        self._leases: list[Any] = []
        self._seen = 0
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=target, daemon=True)
            for target in (lambda: asyncio.run(self._follow()), self._publish)
        ]

    def start(self) -> None:
        for number in range(FOLLOWERS):
            job_id = f"followed-{number}"
            self._app.send_task(TRAIN, [{"command": ["true"], "job_id": job_id}])
            claimed = self._app.records.claim(
                job_id, owner=job_id, node="elsewhere", slot="cpu0", ttl_ms=3_600_000,
                delivery_tag="",
            )  # fmt: skip
            assert isinstance(claimed, Claimed), claimed
            self._leases.append(claimed.lease)
        for thread in self._threads:
            thread.start()

    def stop(self) -> int:
        """How many events the followers got."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        return self._seen

    def _publish(self) -> None:
        number = 0
        while not self._stop.wait(1 / EVENTS_PER_S):
            lease = self._leases[number % FOLLOWERS]
            number += 1
            self._app.records.publish(lease, [tagged(Log(lines=("a line that a job prints",)))])

    async def _follow(self) -> None:
        following = [
            asyncio.ensure_future(self._one(f"followed-{number}")) for number in range(FOLLOWERS)
        ]
        while not self._stop.is_set():
            await asyncio.sleep(0.1)
        for one in following:
            one.cancel()
        await asyncio.gather(*following, return_exceptions=True)

    async def _one(self, job_id: str) -> None:
        async for _ in follow_async(job_id, settings=self._settings):
            self._seen += 1


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
    p99: dict[int, dict[str, float]] = {}
    with support.redis_hub() as url:
        settings = Settings(redis_url=url)
        app = make_app(settings, include=())
        bare = Celery("bare", broker=settings.celery_url, set_as_current=False)
        enqueue_bare(bare, 200)  # connections and imports
        figures["bare Celery, enqueued/s"] = enqueue_bare(bare, 2000)
        figures["enqueued/s"] = enqueue(app, JOBS)
        client = settings.connect()
        figures["Redis memory per queued job, KB"] = _memory_kb(client) / JOBS
        followers = Followers(settings, app)
        followers.start()
        cluster = Cluster(client, settings.keys)
        for count in NODES:
            fleet = Fleet(settings, count)
            fleet.start()
            with watched(client) as seen:
                until = time.monotonic() + SECONDS
                time.sleep(max(0.0, until - time.monotonic()))
            asked = ask(cluster)
            fleet.stop()
            p99[count] = {name: support.percentile(ms, 0.99) for name, ms in asked.items()}
            figures[f"{count} nodes: Redis CPU, %"] = seen["cpu"] * 100
            figures[f"{count} nodes: Redis commands/s"] = seen["ops"]
            figures[f"{count} nodes: a beat was late at most, ms"] = fleet.late_s * 1000
            for name, ms in asked.items():
                figures[f"{count} nodes: {name}, p50 ms"] = statistics.median(ms)
                figures[f"{count} nodes: {name}, p99 ms"] = p99[count][name]
        figures["events that followers got"] = followers.stop()
        cpu = figures[f"{NODES[-1]} nodes: Redis CPU, %"]
        few = figures[f"{NODES[0]} nodes: Redis CPU, %"]
        a_node = (cpu - few) / (NODES[-1] - NODES[0])
        figures["nodes at which one Redis has half a CPU left"] = 50 / max(a_node, 1e-3)
        client.close()
    most = max(p99[NODES[-1]].values())
    medians = {
        count: [figures[f"{count} nodes: {name}, p50 ms"] for name in p99[count]] for count in NODES
    }
    growth = max(
        many / few for many, few in zip(medians[NODES[-1]], medians[NODES[0]], strict=True)
    )
    return Report(
        name="cluster",
        figures=figures,
        measures=(
            Measure(name="Redis CPU, of one core", ratio=cpu / 100, bound=0.5, at_most=True),
            Measure(name="slowest query's p99 / 50 ms", ratio=most / 50, bound=1.0, at_most=True),
            # every answer is a page, so as large with 1,000 nodes as with 100
            Measure(name="p50, 1,000 nodes / 100", ratio=growth, bound=3.0, at_most=True),
            Measure(
                name="enqueued, of bare Celery's rate",
                ratio=figures["enqueued/s"] / figures["bare Celery, enqueued/s"],
                bound=0.3,
                at_most=False,
            ),
        ),
    )


def _memory_kb(client: redis.Redis) -> float:
    info: Any = client.info("memory")
    return float(info["used_memory_dataset"]) / 1024


if __name__ == "__main__":
    report.main(measure)
