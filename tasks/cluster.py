"""A view of the whole cluster: for a Central Server, for people, for programs that decide.

    from tasks.cluster import Cluster

    with Cluster.connect() as cluster:
        for node in cluster.nodes().items:
            print(node.name, node.status, node.busy, "of", len(node.slots))

Lists come in pages: ``page.next`` is the ``after`` of the next one, '' at the end. What is read of
Redis grows with the page that is asked for, and with the logarithm of what there is.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Final, Generic, Self, TypeVar

import redis

from tasks import cordons, explaining, listing, usage
from tasks.explaining import Explanation
from tasks.job import JobConfig
from tasks.keys import NODE_TTL_S, Keys
from tasks.needs import describe
from tasks.nodes import NodeStatus, NodeView, SlotView, read_nodes
from tasks.routing import CLASSES, QueueClass, route
from tasks.scripts import Scripts
from tasks.settings import Settings
from tasks.state import JobState
from tasks.usage import Used

__all__ = [
    "Capacity",
    "Cluster",
    "Explanation",
    "KindCapacity",
    "NodeStatus",
    "NodeView",
    "Page",
    "QueueView",
    "SlotView",
    "Used",
]

_T = TypeVar("_T")
KINDS: Final = ("cpu", "gpu")
"""Of slots."""
_PAGE: Final = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Page(Generic[_T]):
    """Part of a list."""

    items: tuple[_T, ...]
    next: str = ""
    """Where the next page begins; '' where there is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KindCapacity:
    """The slots of one kind."""

    slots: int
    """That take jobs, on live nodes."""
    busy: int
    """That have a job: those of lost nodes too, until their leases have run out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Capacity:
    """What there is, all together."""

    nodes: int
    """Alive."""
    lost: int
    """Silent, and not stopped in order, within a day."""
    kinds: Mapping[str, KindCapacity]
    waiting: int
    """Jobs queued, those that are held back among them."""
    running: int
    """Jobs that have a slot."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueView:
    """One class of jobs, or a node's own queue."""

    name: str
    needs: str
    """In words."""
    waiting: int
    oldest_seconds: float
    """How long the job waits that waits longest; 0 where none does."""
    oldest: str
    """Its id."""
    servers: int
    """Live nodes that read it."""


class Cluster:
    """Reads, and says what nodes shall do. Every method may raise RedisUnavailable's cause,
    `redis.RedisError`; none retries."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        """``client`` decodes its answers, and is the caller's to close."""
        self.client = client
        self.keys = keys
        self._scripts = Scripts(client, keys.prefix)

    @classmethod
    def connect(cls, settings: Settings | None = None) -> Self:
        """On the Redis of ``settings`` (default: the environment's). Raises RedisUnavailable."""
        hub = Settings.from_env() if settings is None else settings
        hub.check()
        return cls(hub.connect(), hub.keys)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    # what there is

    def nodes(self, *, limit: int = _PAGE, after: str = "") -> Page[NodeView]:
        """Nodes by name: those that live, and those that went without a word within a day."""
        low = f"({after}" if after else "-"
        names: Any = self.client.zrangebylex(self.keys.node_names, low, "+", 0, limit + 1)
        rest = names[limit - 1] if len(names) > limit else ""
        return Page(items=tuple(read_nodes(self._scripts, names[:limit])), next=rest)

    def node_names(self, beginning: str, *, limit: int = _PAGE) -> list[str]:
        """Some of the names of `nodes` that begin so."""
        top = f"({beginning}\xff" if beginning else "+"
        low = f"[{beginning}" if beginning else "-"
        found: Any = self.client.zrangebylex(self.keys.node_names, low, top, 0, limit)
        return list(found)

    def node(self, name: str) -> NodeView | None:
        """One node; None if nothing is known of it."""
        return next(iter(read_nodes(self._scripts, [name])), None)

    def capacity(self) -> Capacity:
        """Counts; no node is read for them."""
        now = self._now_ms()
        keys, pipe = self.keys, self.client.pipeline(transaction=False)
        pipe.zcount(keys.nodes, now - NODE_TTL_S * 1000, "+inf")
        pipe.zcard(keys.nodes)
        for state in (JobState.QUEUED, JobState.STARTING, JobState.RUNNING, JobState.PAUSED):
            pipe.zcard(keys.by_state(state))
        for kind in KINDS:
            pipe.zcount(keys.slots(kind), now, "+inf")
            pipe.zcard(keys.busy(kind))
        alive, all_, queued, starting, running, paused, *rest = pipe.execute()
        kinds = {
            kind: KindCapacity(slots=rest[number * 2], busy=rest[number * 2 + 1])
            for number, kind in enumerate(KINDS)
        }
        return Capacity(
            nodes=alive,
            lost=all_ - alive,
            kinds=kinds,
            waiting=queued,
            running=starting + running + paused,
        )

    def queues(self, *, limit: int = _PAGE, after: str = "") -> Page[QueueView]:
        """Queues that have held a job and that hold one, or that a live node reads. Classes come
        first, the most demanding before all, and then nodes' own queues, by their names."""
        found: Any = self.client.smembers(self.keys.queues)
        rest_of = (one for one in found if not after or _order(one) > _order(after))
        names = heapq.nsmallest(limit + 1, rest_of, key=_order)
        now, pipe = self._now_ms(), self.client.pipeline(transaction=False)
        for name in names[:limit]:
            pipe.zcard(self.keys.waiting(name))
            pipe.zrange(self.keys.waiting(name), 0, 0, withscores=True)
            pipe.zcount(self.keys.serving(name), now, "+inf")
        rest = pipe.execute()
        views = [
            _queue(name, now, *rest[number * 3 : number * 3 + 3])
            for number, name in enumerate(names[:limit])
        ]
        return Page(items=tuple(views), next=names[limit - 1] if len(names) > limit else "")

    def states(self) -> Mapping[JobState, int]:
        """How many jobs are in each state; ended ones as long as their records are kept."""
        pipe = self.client.pipeline(transaction=False)
        for state in JobState:
            pipe.zcard(self.keys.by_state(state))
        return dict(zip(JobState, pipe.execute(), strict=True))

    def users(self, *, limit: int = _PAGE, after: str = "") -> Page[tuple[str, int]]:
        """Users with jobs that have not ended, and how many; in no order.

        A page may be longer than ``limit``; one that is read while jobs come and go may name a
        user again.
        """
        answer: Any = self.client.hscan(self.keys.live, cursor=int(after or 0), count=limit)
        cursor, found = answer
        items = tuple((str(user), int(count)) for user, count in found.items())
        return Page(items=items, next=str(cursor) if int(cursor) else "")

    def jobs(
        self,
        *,
        states: tuple[JobState, ...] = (),
        user_id: str = "",
        labels: Mapping[str, str | None] | None = None,
        limit: int = _PAGE,
        after: str = "",
    ) -> Page[listing.Listed]:
        """Jobs, the latest first: by when they came into their states, those of a user in any state
        by when they were submitted.

        A page by ``labels`` may be short, or empty, and have one after it (`listing.MOST_READ`).
        Raises ValueError for an ``after`` that no page gave.
        """
        page, mark = listing.list_jobs(
            self.client,
            self.keys,
            listing.Wanted(states=states, user_id=user_id, labels=labels or {}),
            limit=limit,
            after=listing.parse_mark(after) if after else None,
        )
        return Page(items=tuple(page), next="" if mark is None else listing.mark_text(mark))

    # questions

    def find_nodes(
        self, requirements: JobConfig | Mapping[str, Any], *, limit: int = _PAGE, after: str = ""
    ) -> Page[NodeView]:
        """Live nodes that read the queue of a job of this configuration, busy or not.

        The queue stands for pool, kind of device, number of GPUs, memory and sandbox. What else a
        node may refuse a job for is not looked at: its images, the keys that it trusts, its
        `max_limits`, where data may come from.

        Between two pages a node may come to stand again in the second one; none is left out.

        Raises InvalidJob, and ValueError for an ``after`` that no page gave.
        """
        index = self.keys.serving(route(JobConfig.parse(requirements)).queue)
        now = self._now_ms()
        mark = listing.parse_mark(after) if after else (0.0, "")
        low, count = max(now, int(mark[0])), limit + 1
        while True:
            found: Any = self.client.zrangebyscore(index, low, "+inf", 0, count, withscores=True)
            fresh = [(score, name) for name, score in found if (score, name) > mark]
            if len(fresh) > limit or len(found) < count:
                break
            count *= 2  # that many within one millisecond
        names = [name for _, name in fresh[:limit]]
        rest = listing.mark_text(fresh[limit - 1]) if len(fresh) > limit else ""
        return Page(items=tuple(read_nodes(self._scripts, names)), next=rest)

    def explain(self, job_id: str) -> Explanation:
        """Why a job is where it is. Raises UnknownJob."""
        return explaining.explain(self.client, self.keys, job_id)

    def usage(self, first: date, last: date, *, user_id: str | None = None) -> Iterator[Used]:
        """Slot-seconds and GPU-seconds by day and user, both days included; read as it is used.

        Raises ValueError for a period that is none.
        """
        return usage.used(self.client, self.keys, first, last, user_id=user_id)

    # what nodes shall do

    def cordon(self, node: str, *, why: str = "") -> None:
        """``node`` takes no new job; those that it has go on."""
        cordons.cordon(self.client, self.keys, node, why=why)

    def drain(self, node: str, *, seconds: float, why: str = "") -> None:
        """As `cordon`, and what has not ended within ``seconds`` is handed back to its queue."""
        cordons.cordon(self.client, self.keys, node, why=why, drain=seconds)

    def uncordon(self, node: str) -> bool:
        """``node`` takes jobs again; whether it did not."""
        return cordons.uncordon(self.client, self.keys, node)

    def _now_ms(self) -> int:
        seconds: Any = self.client.time()
        return int(seconds[0] * 1000 + seconds[1] // 1000)


def _order(queue: str) -> tuple[bool, str]:
    """A class before a node's own queue."""
    return not queue.startswith(CLASSES), queue


def _queue(name: str, now_ms: int, waiting: int, oldest: Any, servers: int) -> QueueView:
    job_id, since = oldest[0] if oldest else ("", now_ms)
    try:
        needs = describe(QueueClass.from_name(name))
    except ValueError:
        needs = f"node {name.partition('.')[2]}"
    return QueueView(
        name=name,
        needs=needs,
        waiting=waiting,
        oldest_seconds=max(0.0, (now_ms - since) / 1000),
        oldest=str(job_id),
        servers=servers,
    )
