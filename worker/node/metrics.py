"""The node's metrics for Prometheus, over HTTP, from what is counted in Redis (`tasks.counts`).

Nothing is counted in the agent, so it may die, and be another one, without a gap. A Redis that is
away is said (`cyxwiz_redis_up`), and what was last known of the node is served on.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

import redis

from tasks.cluster import Cluster
from tasks.counts import Counts, Histogram, parse, read_counts
from tasks.nodes import NodeView
from tasks.settings import Settings
from worker.node import cluster_counts
from worker.node.health import illness
from worker.node.log import event
from worker.node.page_server import PageServer

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from worker.sections import MetricsSection

_OURS: Final = "cyxwiz"


class Metrics:
    """Serves them from `start` to `stop`. A port that cannot be had costs the metrics alone."""

    def __init__(self, section: MetricsSection, settings: Settings, node: str) -> None:
        self._section = section
        self._settings = settings
        self._node = node
        self._served: PageServer | None = None
        self._client: redis.Redis | None = None

    def start(self) -> None:
        """Begin, unless the configuration says not to."""
        if not self._section.enabled:
            return
        # 2 MB of an agent's memory: only where they are wanted
        from prometheus_client import CollectorRegistry, make_wsgi_app

        client, keys = self._settings.connect(timeout=2.0), self._settings.keys
        self._client = client
        registry = CollectorRegistry(auto_describe=False)
        registry.register(Collector(Cluster(client, keys), self._node))
        address, port = self._section.address, self._section.port
        try:
            self._served = PageServer(
                address,
                port,
                metrics=make_wsgi_app(registry),
                health=lambda: illness(client, keys, self._node),
            )
        except OSError as error:
            why = error.strerror or str(error)
            event("metrics.unserved", level=logging.WARNING, address=address, port=port, error=why)
            return
        self._served.start()
        event("metrics.served", address=address, port=port)

    def stop(self) -> None:
        """Safe to call twice."""
        if self._served is not None:
            self._served.stop()
            self._served = None
        if self._client is not None:
            self._client.close()
            self._client = None


class Collector:
    """Reads Redis whenever Prometheus asks."""

    def __init__(self, cluster: Cluster, node: str) -> None:
        self._cluster = cluster
        self._node = node
        self._last: Counts = parse({})

    def describe(self) -> Iterable[Metric]:
        """Nothing is read before Prometheus asks."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Every metric; those of the cluster only while Redis is there."""
        view: NodeView | None = None
        of_cluster: list[Metric] = []
        up = True
        try:
            self._last = read_counts(self._cluster.client, self._cluster.keys, self._node)
            view = self._cluster.node(self._node)
            of_cluster = list(cluster_metrics(self._cluster))
        except redis.RedisError:
            up = False
        yield _gauge("redis_up", "Whether Redis answers the node.", float(up))
        yield from count_metrics(self._last)
        if view is not None:
            yield from node_metrics(view)
        yield from of_cluster


def count_metrics(counts: Counts) -> Iterator[Metric]:
    """What has happened on the node."""
    ended = _counter("attempts_ended", "Attempts that ended, by how and why.", "outcome", "reason")
    for (outcome, reason), number in sorted(counts.ended.items()):
        ended.add_metric([outcome, reason], number)
    yield ended
    engine = sum(n for (_, reason), n in counts.ended.items() if reason == "engine_error")
    for name, what, number in (
        ("attempts_begun", "Jobs that a slot of the node has claimed.", counts.claims),
        ("engine_errors", "Attempts that ended by a fault of the container engine.", engine),
        ("events_published", "Events that jobs of the node have published.", counts.events),
        ("lease_renewals", "Renewals of leases.", counts.renewals),
        (
            "leases_lost",
            "Leases that ran out and were taken away; the attempts were fenced.",
            counts.lost,
        ),
    ):
        one = _counter(name, what)
        one.add_metric([], number)
        yield one
    yield _histogram("queue_wait_seconds", "From queued to claimed.", counts.wait)
    yield _histogram("dispatch_seconds", "From claimed to running.", counts.start)
    yield _histogram("run_seconds", "From running to the attempt's end.", counts.run)


def node_metrics(view: NodeView) -> Iterator[Metric]:
    """What the node is and has now."""
    versions = view.record.get("versions")
    version = versions.get("cyxwiz-worker", "") if isinstance(versions, dict) else ""
    info = _gauges("node_info", "The node; always 1.", "node", "pool", "mode", "version")
    mode = str(view.record.get("mode") or "")
    info.add_metric([view.name, view.pool, mode, str(version)], 1)
    yield info
    slots = _gauges("slots", "Slots by kind and by what their workers do.", "kind", "state")
    for (kind, state), number in sorted(Counter((s.kind, s.state) for s in view.slots).items()):
        slots.add_metric([kind, state], number)
    yield slots
    busy = _gauges("slots_busy", "Slots that have a job.", "kind")
    kinds = sorted({slot.kind for slot in view.slots})
    for kind in kinds:
        busy.add_metric([kind], sum(1 for s in view.slots if s.kind == kind and s.job_id))
    yield busy
    yield from device_metrics(view)
    yield _gauge("sandbox_level", "0 none, 1 basic, 2 full.", view.sandbox_level)
    yield _gauge("cordoned", "Whether the node takes no new job.", float(view.cordon is not None))


def device_metrics(view: NodeView) -> Iterator[Metric]:
    """The node's GPUs, by UUID; none where it has none."""
    said = view.record.get("gpus")
    gpus = [one for one in said if isinstance(one, dict)] if isinstance(said, list) else []
    for field, name, what, unit in (
        ("jobs", "device_jobs", "Jobs that have the device.", 1),
        ("memory_mb", "device_memory_bytes", "Memory of the device.", 1 << 20),
        ("used_mb", "device_memory_used_bytes", "Memory of it that is in use.", 1 << 20),
        ("utilisation", "device_utilisation_ratio", "How busy it is, of 1.", 0.01),
        ("temperature_c", "device_temperature_celsius", "How hot it is.", 1),
    ):
        family = _gauges(name, what, "device", "model")
        for one in gpus:
            value = one.get(field)
            if isinstance(value, int | float):
                family.add_metric([str(one.get("uuid")), str(one.get("name"))], value * unit)
        yield family
    well = _gauges("device_well", "Whether the device is given to jobs.", "device", "model")
    for one in gpus:
        well.add_metric([str(one.get("uuid")), str(one.get("name"))], float(not one.get("wrong")))
    yield well


def cluster_metrics(cluster: Cluster) -> Iterator[Metric]:
    """What every node says alike: take the maximum over them. Raises redis.RedisError."""
    found = cluster_counts.read(cluster)
    jobs = _gauges("cluster_jobs", "Jobs of the cluster by state.", "state")
    for state, number in found.jobs:
        jobs.add_metric([state], number)
    yield jobs
    waiting = _gauges("cluster_queue_jobs", "Jobs that wait in a queue.", "queue")
    oldest = _gauges("cluster_queue_oldest_seconds", "How long the oldest of them waits.", "queue")
    servers = _gauges("cluster_queue_nodes", "Live nodes that read the queue.", "queue")
    for queue in found.queues:
        waiting.add_metric([queue.name], queue.waiting)
        oldest.add_metric([queue.name], queue.oldest_seconds)
        servers.add_metric([queue.name], queue.nodes)
    yield from (waiting, oldest, servers)


def _counter(name: str, what: str, *labels: str) -> Any:
    from prometheus_client.core import CounterMetricFamily

    return CounterMetricFamily(f"{_OURS}_{name}", what, labels=labels)


def _gauges(name: str, what: str, *labels: str) -> Any:
    from prometheus_client.core import GaugeMetricFamily

    return GaugeMetricFamily(f"{_OURS}_{name}", what, labels=labels)


def _gauge(name: str, what: str, value: float) -> Metric:
    family = _gauges(name, what)
    family.add_metric([], value)
    found: Metric = family
    return found


def _histogram(name: str, what: str, said: Histogram) -> Metric:
    from prometheus_client.core import HistogramMetricFamily

    family = HistogramMetricFamily(f"{_OURS}_{name}", what)
    buckets = [
        ("+Inf" if bound == float("inf") else str(bound), float(number))
        for bound, number in said.buckets
    ]
    family.add_metric([], buckets=buckets, sum_value=said.seconds)
    return family
