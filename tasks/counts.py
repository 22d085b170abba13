"""What is counted of each node, in Redis, by the scripts that do what is counted.

So nothing is counted twice or lost, whatever dies on the node and whenever. The node's agent serves
it as metrics (`worker.node.metrics`); a Central Server may read it here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import redis

from tasks.keys import Keys

BOUNDS_MS: Final[Mapping[str, tuple[int, ...]]] = {
    "wait": (100, 500, 1000, 5000, 15000, 60000, 300000, 1800000, 7200000, 43200000),
    "start": (5, 10, 25, 50, 100, 250, 500, 1000, 5000, 30000, 120000),
    "run": (1000, 10000, 60000, 300000, 1800000, 7200000, 43200000, 172800000, 604800000),
}
"""Upper bounds of the histograms' buckets; `lua/common.lua` has the same."""

_OUTCOMES: Final = ("retry", "handed_back")


@dataclass(frozen=True, kw_only=True, slots=True)
class Histogram:
    """How often something took how long."""

    buckets: tuple[tuple[float, int], ...]
    """Upper bound in seconds (the last one is infinite), and how many were not above it."""
    seconds: float
    """All of them together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """Since the node was first seen after it had been away for a day."""

    claims: int
    """Attempts begun."""
    ended: Mapping[tuple[str, str], int]
    """By outcome (an end's state, ``retry`` or ``handed_back``) and reason ('' for none)."""
    events: int
    renewals: int
    lost: int
    """Leases that ran out and were taken away: their attempts were fenced."""
    wait: Histogram
    """From queued to claimed."""
    start: Histogram
    """From claimed to running."""
    run: Histogram
    """From running to the attempt's end."""
    unknown: tuple[str, ...] = field(default=())
    """Fields that this version does not know."""


def read_counts(client: redis.Redis, keys: Keys, node: str) -> Counts:
    """All zero for a node that nothing is known of. Raises redis.RedisError."""
    return parse(client.hgetall(keys.counts(node)))  # type: ignore[arg-type]  # a sync client


def parse(fields: Mapping[str, str]) -> Counts:
    """The counts in a node's hash. A value that is no number counts as 0."""
    ended: dict[tuple[str, str], int] = {}
    unknown = []
    for name in fields:
        kind, _, rest = name.partition(":")
        if kind == "end":
            state, _, reason = rest.partition(":")
            ended[(state, reason)] = _number(fields, name)
        elif kind in _OUTCOMES:
            ended[(kind, rest)] = _number(fields, name)
        elif kind not in BOUNDS_MS and name not in ("claims", "events", "renewals", "lost"):
            unknown.append(name)
    return Counts(
        claims=_number(fields, "claims"),
        ended=ended,
        events=_number(fields, "events"),
        renewals=_number(fields, "renewals"),
        lost=_number(fields, "lost"),
        wait=_histogram(fields, "wait"),
        start=_histogram(fields, "start"),
        run=_histogram(fields, "run"),
        unknown=tuple(unknown),
    )


def _histogram(fields: Mapping[str, str], what: str) -> Histogram:
    total, buckets = 0, []
    for number, bound in enumerate((*BOUNDS_MS[what], float("inf")), start=1):
        total += _number(fields, f"{what}:{number}")
        buckets.append((bound / 1000, total))
    return Histogram(buckets=tuple(buckets), seconds=_number(fields, f"{what}:ms") / 1000)


def _number(fields: Mapping[str, str], name: str) -> int:
    text = fields.get(name, "0")
    return int(text) if text.isdecimal() else 0
