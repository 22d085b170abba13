"""Counts of the whole cluster, which every node serves alike: one reads them, and all show them.

Of a thousand nodes that are scraped each would else ask for every queue. So what one has read
stands in Redis for the others, and is read anew once it is `FRESH_MS` old, by whoever comes first.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import redis

from tasks.cluster import Cluster

FRESH_MS: Final = 5_000
_KEPT_MS: Final = 60_000
_READS_MS: Final = 2_000
"""For which nobody else reads them, while one does."""
QUEUES: Final = 200
"""At most so many queues are counted: classes, then nodes' own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueCounts:
    """One queue."""

    name: str
    waiting: int
    oldest_seconds: float
    nodes: int
    """Live ones that read it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterCounts:
    """What there is, at most some seconds ago."""

    jobs: tuple[tuple[str, int], ...]
    """By state, of those that have not ended."""
    queues: tuple[QueueCounts, ...]


def read(cluster: Cluster) -> ClusterCounts:
    """Raises redis.RedisError."""
    client, keys = cluster.client, cluster.keys
    pipe = client.pipeline(transaction=False)
    pipe.get(keys.cluster_counts)
    pipe.pttl(keys.cluster_counts)
    text, left_ms = pipe.execute()
    known = None if text is None else _parsed(text)
    fresh = known is not None and left_ms > _KEPT_MS - FRESH_MS
    if known is not None and (fresh or not _reads(client, keys.cluster_counts_reader)):
        return known
    found = _asked(cluster)
    with suppress(redis.ResponseError):  # what is read is true, whether it can be kept or not
        client.set(keys.cluster_counts, _text(found), px=_KEPT_MS)
    return found


def _reads(client: redis.Redis, key: str) -> bool:
    """Whether it is this one's turn. In a Redis that refuses to write there are no turns."""
    try:
        return bool(client.set(key, 1, nx=True, px=_READS_MS))
    except redis.ResponseError:
        return True


def _asked(cluster: Cluster) -> ClusterCounts:
    return ClusterCounts(
        # how many ended ones there are depends on how long they are kept
        jobs=tuple(
            (str(state), number) for state, number in cluster.states().items() if not state.terminal
        ),
        queues=tuple(
            QueueCounts(
                name=one.name,
                waiting=one.waiting,
                oldest_seconds=one.oldest_seconds,
                nodes=one.servers,
            )
            for one in cluster.queues(limit=QUEUES).items
        ),
    )


def _text(found: ClusterCounts) -> str:
    queues = [[one.name, one.waiting, one.oldest_seconds, one.nodes] for one in found.queues]
    return json.dumps({"jobs": dict(found.jobs), "queues": queues}, separators=(",", ":"))


def _parsed(text: str) -> ClusterCounts | None:
    """None for what another version wrote, and this one cannot read."""
    try:
        said: Any = json.loads(text)
        return ClusterCounts(
            jobs=tuple((str(state), int(number)) for state, number in said["jobs"].items()),
            queues=tuple(
                QueueCounts(
                    name=str(name), waiting=int(waiting), oldest_seconds=float(oldest), nodes=int(n)
                )
                for name, waiting, oldest, n in said["queues"]
            ),
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None
