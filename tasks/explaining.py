"""Why a job is where it is: what it needs, who could serve it, its place in the line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import redis

from tasks.keys import Keys
from tasks.needs import describe, needs_of
from tasks.record import Records
from tasks.recorded import JobRecord
from tasks.routing import QueueClass
from tasks.state import JobState

MOST_NAMES: Final = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """What can be said of a job. Places and counts are 0 where they mean nothing."""

    job_id: str
    state: JobState
    queue: str
    needs: str
    """What its class asks for, in words."""
    why: str
    """Why it is where it is, in a sentence."""
    missing: str = ""
    """What no live node has; '' where one can serve it."""
    servers: int = 0
    """How many live nodes read its queue."""
    nodes: tuple[str, ...] = ()
    """Some of them."""
    place: int = 0
    """In its queue, by priority and then by time; 1 is next."""
    length: int = 0
    """How many wait there."""
    waits_seconds: float = 0.0
    """Since it was queued last."""
    starts_in_seconds: float = 0.0
    """Its message is held back for so long, after an attempt that failed."""
    avoids: tuple[str, ...] = ()
    """Nodes that handed it back, which do not get it for a while."""


def explain(client: redis.Redis, keys: Keys, job_id: str) -> Explanation:
    """Raises UnknownJob, redis.RedisError."""
    record = Records(client, keys).get(job_id)
    needs = _words(record.queue)
    if record.state is not JobState.QUEUED:
        return Explanation(
            job_id=job_id,
            state=record.state,
            queue=record.queue,
            needs=needs,
            why=_not_waiting(record),
        )
    return _waiting(client, keys, record, needs)


def missing(client: redis.Redis, keys: Keys, queue: str) -> str:
    """What no live node has of what the jobs of ``queue`` need; '' where one can serve them."""
    needs = needs_of(queue)
    pipe = client.pipeline(transaction=False)
    pipe.time()
    names = [queue, *(name for name, _ in needs.less)]
    for name in names:
        pipe.zrange(keys.serving(name), -1, -1, withscores=True)  # whoever is to live longest
    (seconds, micros), *last = pipe.execute()
    now_ms = seconds * 1000 + micros // 1000
    served = [bool(found) and found[0][1] >= now_ms for found in last]
    if served[0]:
        return ""
    return next(
        (text for (_, text), one in zip(needs.less, served[1:], strict=True) if one),
        needs.otherwise,
    )


def _waiting(client: redis.Redis, keys: Keys, record: JobRecord, needs: str) -> Explanation:
    seconds: Any = client.time()
    now_ms = seconds[0] * 1000 + seconds[1] // 1000
    job_id, queue = record.job_id, record.queue
    pipe = client.pipeline(transaction=False)
    pipe.zcount(keys.serving(queue), now_ms, "+inf")
    pipe.zrangebyscore(keys.serving(queue), now_ms, "+inf", 0, MOST_NAMES)
    pipe.zrank(keys.line(queue), job_id)
    pipe.zcard(keys.line(queue))
    pipe.zscore(keys.waiting(queue), job_id)
    pipe.zscore(keys.delayed, job_id)
    pipe.hgetall(keys.job(job_id))
    servers, nodes, rank, length, since, due, fields = pipe.execute()
    avoids = tuple(
        sorted(
            name.removeprefix("avoid:")
            for name, until in fields.items()
            if name.startswith("avoid:") and float(until) > now_ms
        )
    )
    # one that has handed it back and is gone is none of those that could serve it
    spared = sum(_serves(client, keys.serving(queue), avoids, now_ms))
    lacking = "" if servers else missing(client, keys, queue)
    place = 0 if rank is None else int(rank) + 1
    starts_in = 0.0 if due is None else max(0.0, (due - now_ms) / 1000)
    return Explanation(
        job_id=job_id,
        state=record.state,
        queue=queue,
        needs=needs,
        why=_why(record, lacking, place, starts_in, left=servers - spared),
        missing=lacking,
        servers=servers,
        nodes=tuple(nodes),
        place=place,
        length=length,
        waits_seconds=0.0 if since is None else max(0.0, (now_ms - since) / 1000),
        starts_in_seconds=starts_in,
        avoids=avoids,
    )


def _serves(client: redis.Redis, serving: str, nodes: tuple[str, ...], now_ms: int) -> list[bool]:
    """Of each of ``nodes``, whether it lives and reads the queue."""
    pipe = client.pipeline(transaction=False)
    for name in nodes:
        pipe.zscore(serving, name)
    return [score is not None and score >= now_ms for score in pipe.execute()]


def _why(
    record: JobRecord,
    lacking: str,
    place: int,
    starts_in: float,
    *,
    left: int,
) -> str:
    """``left``: how many live nodes could serve it and have not handed it back."""
    again = f"; before: {record.reason}: {record.message}" if record.reason else ""
    if lacking:
        return f"it waits for a node that can serve it: {lacking}{again}"
    if starts_in:
        return f"it is tried again in {starts_in:.0f} s{again}"
    if left <= 0:
        return f"each node that could serve it has handed it back; one is asked again soon{again}"
    if place > 1:
        return f"{place - 1} other jobs are before it{again}"
    return f"it is the next one: it waits for a free slot{again}"


def _not_waiting(record: JobRecord) -> str:
    where = f"{record.node}/{record.slot}"
    match record.state:
        case JobState.STARTING:
            return f"it starts on {where}"
        case JobState.RUNNING:
            return f"it runs on {where}"
        case JobState.PAUSED:
            return f"it stands still on {where}"
        case _:
            why = ": ".join(filter(None, (record.reason, record.message)))
            return f"it is over: {record.state}" + (f", {why}" if why else "")


def _words(queue: str) -> str:
    try:
        return describe(QueueClass.from_name(queue))
    except ValueError:
        return f"node {queue.partition('.')[2]}"
