"""What goes on in the cluster that `benchmarks.cluster` looks at, each in a process of its own.

Nodes are simulated: each is the very script that an agent's heartbeat runs, with the queues, the
slots and the record of a node with 8 slots, every ten seconds; the beats are spread over the ten
seconds, as those of real nodes are. So are the scrapes of their metrics. Followers are real ones.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import redis

from benchmarks import support
from tasks.choices import Device
from tasks.cluster import Cluster
from tasks.events import Log
from tasks.following import follow_async
from tasks.keys import NODE_TTL_S
from tasks.ladders import SandboxClass
from tasks.leases import tagged
from tasks.record import Records
from tasks.recorded import Lease
from tasks.routing import SlotOffer, classes_for, direct_queue
from tasks.settings import Settings
from worker.node.identity import NodeIdentity
from worker.node.metrics import Collector
from worker.node.registry import NodeRecord, NodeRegistry, NodeState, Offer, SlotEntry

SLOTS: Final = 8
FOLLOWERS: Final = 200
EVENTS_PER_S: Final = 200
"""That the followed jobs publish, all together."""
BEAT_S: Final = NODE_TTL_S / 3
SCRAPE_S: Final = 15.0
"""After which Prometheus asks a node again."""


def node_name(number: int) -> str:
    return f"node-{number:04d}"


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


def scrape(url: str, count: int, ready: Any, stop: Any) -> None:
    """A process: each of so many nodes collects its metrics, in turns."""
    settings = Settings(redis_url=url)
    client = settings.connect()
    cluster = Cluster(client, settings.keys)
    nodes = [Collector(cluster, node_name(number)) for number in range(count)]
    ready.set()
    due = time.monotonic()
    while True:
        for one in nodes:
            due += SCRAPE_S / count
            if stop.wait(max(0.0, due - time.monotonic())):
                client.close()
                return
            for _ in one.collect():
                pass


def _node(client: redis.Redis, settings: Settings, number: int) -> tuple[NodeRegistry, NodeRecord]:
    """A node with one GPU slot in four, as large as servers are."""
    name = node_name(number)
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


def publish(url: str, leases: list[Lease], ready: Any, stop: Any) -> None:
    """A process: the jobs print a line in turns."""
    settings = Settings(redis_url=url)
    records = Records(settings.connect(), settings.keys)
    ready.set()
    for number in itertools.count():
        if stop.wait(1 / EVENTS_PER_S):
            return
        records.leases.publish(
            leases[number % FOLLOWERS], [tagged(Log(lines=("a line of a job",)))]
        )


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
