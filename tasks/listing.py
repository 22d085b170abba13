"""Lists jobs, newest first, page by page, from the indexes in Redis."""

from __future__ import annotations

import heapq
import json
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

import redis

from tasks.keys import Keys
from tasks.state import JobState

log = logging.getLogger(__name__)

_BATCH: Final = 200
MOST_READ: Final = 2_000
"""Records that are read for one page."""
_FIELDS: Final = (
    *("state", "user", "attempt", "node", "slot", "submitted", "started", "finished"),
    *("reason", "error", "progress", "spec"),
)

Mark = tuple[float, str]
"""Where a job stands in the order: ms of Redis's clock, then its id. Larger comes first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Which jobs. Empty: any."""

    states: tuple[JobState, ...] = ()
    user_id: str = ""
    labels: Mapping[str, str | None] = field(default_factory=dict)
    """Values by key; None: whatever its value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """One job of a page. Times are seconds since the epoch; None: not yet."""

    job_id: str
    state: JobState
    user_id: str
    attempt: int
    node: str
    slot: str
    submitted: float | None
    started: float | None
    finished: float | None
    reason: str
    message: str
    labels: Mapping[str, str]
    progress: Mapping[str, Any]
    """The last progress event; {} if there was none."""


def list_jobs(
    client: redis.Redis, keys: Keys, wanted: Wanted, *, limit: int, after: Mark | None
) -> tuple[list[Listed], Mark | None]:
    """A page of at most ``limit`` jobs that come after ``after``, and where the next one begins.

    Ordered by the time of submission where a user is named and no state, else by the time since
    when each is in its state. A page may be short, or empty, and yet have one after it: where few
    jobs have the labels, `MOST_READ` are looked at for each. A record that cannot be read is left
    out, and logged. Raises redis.RedisError.
    """
    page: list[Listed] = []
    last: Mark | None = None
    # one more says whether there is a next page; what does not fit has more looked at
    batch = min(_BATCH, limit + 1)
    for looked, (mark, job) in enumerate(_jobs(client, keys, wanted, after, batch)):
        fits = job is not None and _fits(job, wanted)
        if (fits and len(page) == limit) or looked == max(MOST_READ, limit):
            return page, last
        last = mark
        if job is not None and fits:
            page.append(job)
    return page, None


def _jobs(
    client: redis.Redis, keys: Keys, wanted: Wanted, after: Mark | None, count: int
) -> Iterator[tuple[Mark, Listed | None]]:
    """None: a record that is gone, or broken. ``count``: how many are read at once at first."""
    indexes = _indexes(client, keys, wanted)
    pipe = client.pipeline(transaction=False)
    for index in indexes:
        _below(pipe, index, after, count)
    firsts = pipe.execute()
    marks = heapq.merge(
        *(
            _marks(client, index, after, count, first)
            for index, first in zip(indexes, firsts, strict=True)
        ),
        reverse=True,
    )
    seen: set[str] = set()  # one that changes its state meanwhile is in two indexes
    while taken := list(islice(marks, count)):
        count = _BATCH
        batch = [mark for mark in taken if mark[1] not in seen]
        seen.update(job_id for _, job_id in batch)
        pipe = client.pipeline(transaction=False)
        for _, job_id in batch:
            pipe.hmget(keys.job(job_id), _FIELDS)
        answers = pipe.execute(raise_on_error=False)
        for mark, values in zip(batch, answers, strict=True):
            yield mark, _listed_if_whole(mark[1], values)


def _listed_if_whole(job_id: str, values: Any) -> Listed | None:
    """``values``: of `_FIELDS`, or what reading them raised. One broken record is no reason for
    which nobody sees the others."""
    if isinstance(values, Exception):
        if not str(values).startswith("WRONGTYPE"):
            raise values
        log.warning("listing.record_broken job=%s error=%s", job_id, values)
        return None
    found = dict(zip(_FIELDS, values, strict=True))
    if found["spec"] is None:  # it has expired, and the index is behind
        return None
    try:
        return _listed(job_id, found)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        log.warning("listing.record_broken job=%s error=%s", job_id, error)
        return None


def _indexes(client: redis.Redis, keys: Keys, wanted: Wanted) -> list[str]:
    """Those that have every job that is wanted, and as few others as can be."""
    user = wanted.user_id
    if not user:
        return [keys.by_state(state) for state in wanted.states or JobState]
    if wanted.states and client.exists(keys.indexed):
        return [keys.by_state_and_user(state, user) for state in wanted.states]
    return [keys.by_user(user)]


def _marks(
    client: redis.Redis, index: str, after: Mark | None, count: int, found: Any
) -> Iterator[Mark]:
    """The index from the newest on, of which the first ``count`` are ``found``. It may change
    between the batches: so no offsets."""
    while True:
        fresh = [
            (score, job_id) for job_id, score in found if after is None or (score, job_id) < after
        ]
        yield from fresh
        if len(found) < count:
            return
        if fresh:
            after, count = fresh[-1], _BATCH
        else:
            count *= 2  # that many in one millisecond
        found = _below(client, index, after, count)


def _below(client: redis.Redis, index: str, after: Mark | None, count: int) -> Any:
    """At most ``count`` of the index, from ``after`` on: with that itself, and others of its ms."""
    top = "+inf" if after is None else repr(after[0])
    return client.zrevrangebyscore(index, top, "-inf", 0, count, withscores=True)


def _fits(job: Listed, wanted: Wanted) -> bool:
    if wanted.states and job.state not in wanted.states:
        return False
    return all(
        key in job.labels and value in (None, job.labels[key])
        for key, value in wanted.labels.items()
    )


def _listed(job_id: str, found: Mapping[str, str | None]) -> Listed:
    """Raises ValueError, TypeError, AttributeError or RecursionError for a broken one."""

    def seconds(name: str) -> float | None:
        ms = float(found[name] or 0)
        if not math.isfinite(ms):
            raise ValueError(f"{name} is {ms}")
        return ms / 1000 or None

    def mapping(name: str, value: Any) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise TypeError(f"{name} is no object")
        return value

    def loaded(name: str) -> Mapping[str, Any]:
        return mapping(name, json.loads(found[name] or "{}"))

    return Listed(
        job_id=job_id,
        state=JobState(found["state"] or ""),
        user_id=found["user"] or "",
        attempt=int(found["attempt"] or 0),
        node=found["node"] or "",
        slot=found["slot"] or "",
        submitted=seconds("submitted"),
        started=seconds("started"),
        finished=seconds("finished"),
        reason=found["reason"] or "",
        message=found["error"] or "",
        labels=mapping("labels", loaded("spec").get("labels") or {}),
        progress=loaded("progress"),
    )


def mark_text(mark: Mark) -> str:
    """A mark for the command line."""
    return f"{mark[0]:.0f}:{mark[1]}"


def parse_mark(text: str) -> Mark:
    """Raises ValueError."""
    score, colon, job_id = text.partition(":")
    if not colon or not job_id or not score.isascii() or not score.isdigit():
        raise ValueError(f"{text!r} is no place in a list of jobs: take what the last page gave")
    return float(score), job_id
