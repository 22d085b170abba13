"""What a run does to its cluster, from a seed: the same seed, the same jobs and faults. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """What a fault does."""

    KILL_CHILD = "kill the pool child"
    KILL_WORKER = "kill the slot worker"
    KILL_AGENT = "kill the agent"
    KILL_KEEPER = "kill a keeper"
    STOP_CHILD = "freeze the pool child"
    STOP_WORKER = "freeze the slot worker"
    STOP_AGENT = "freeze the agent"
    STOP_KEEPER = "freeze a keeper"
    LOSE_NODE = "lose a node"
    RESTART_NODE = "restart a node"
    PARTITION = "cut a node off"
    REDIS_KILL = "kill redis"
    REDIS_FREEZE = "freeze redis"
    REDIS_RESET = "reset all connections"
    CLOCK = "set a node's clock"
    ENGINE = "restart the container engine"


_WEIGHTS: Final = {
    Kind.KILL_CHILD: 5,
    Kind.KILL_WORKER: 4,
    Kind.KILL_AGENT: 2,
    Kind.KILL_KEEPER: 4,
    Kind.STOP_CHILD: 3,
    Kind.STOP_WORKER: 3,
    Kind.STOP_AGENT: 1,
    Kind.STOP_KEEPER: 2,
    Kind.LOSE_NODE: 1,
    Kind.RESTART_NODE: 2,
    Kind.PARTITION: 3,
    Kind.REDIS_KILL: 2,
    Kind.REDIS_FREEZE: 2,
    Kind.REDIS_RESET: 3,
    Kind.CLOCK: 2,
    Kind.ENGINE: 1,
}

_LASTS: Final = {
    Kind.STOP_CHILD: (0.1, 2.5),
    Kind.STOP_WORKER: (0.1, 2.5),
    Kind.STOP_AGENT: (0.5, 2.5),
    # a keeper that stands still keeps no deadline: see docs/reliability.md
    Kind.STOP_KEEPER: (0.05, 0.3),
    Kind.LOSE_NODE: (0.5, 3.0),
    Kind.PARTITION: (0.1, 2.5),
    Kind.REDIS_KILL: (0.0, 0.8),
    Kind.REDIS_FREEZE: (0.1, 1.6),
    Kind.KILL_AGENT: (0.1, 1.0),
    Kind.RESTART_NODE: (0.0, 0.3),
    Kind.ENGINE: (0.0, 0.3),
}
"""How long it lasts, in TTLs of a lease."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One fault. What it hits is a number below 1: the part of all that there is at the time."""

    at: float
    """Seconds from the start of the run."""
    kind: Kind
    node: int
    target: float
    lasts: float
    """Seconds until it is mended; of a clock: by how much it is set."""


class End(StrEnum):
    """How a job is meant to end."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One job of a run."""

    id: str
    seconds: float
    meant: End = End.SUCCEEDED
    endless: bool = False
    """It lasts for as long as nobody cancels it."""
    after: tuple[str, ...] = ()
    """Jobs of whose chain or chord it is the next step."""


def faults(
    seed: int, *, nodes: int, ttl: float, every: float, kinds: frozenset[Kind]
) -> Iterator[Fault]:
    """Faults without end, ``every`` seconds on average, of ``kinds`` alone."""
    draw = random.Random(f"faults {seed}")
    allowed = [kind for kind in Kind if kind in kinds]
    weights = [_WEIGHTS[kind] for kind in allowed]
    at = 1.0
    while True:
        at += draw.expovariate(1 / every)
        kind = draw.choices(allowed, weights)[0]
        low, high = _LASTS.get(kind, (0.0, 0.0))
        lasts = (
            draw.choice((-7200.0, 7200.0)) if kind is Kind.CLOCK else draw.uniform(low, high) * ttl
        )
        node, target = draw.randrange(nodes), draw.random()
        yield Fault(at=at, kind=kind, node=node, target=target, lasts=lasts)


def jobs(seed: int, count: int) -> list[Job]:
    """``count`` jobs: most short, some in chains and chords, a few that fail or are cancelled."""
    draw = random.Random(f"jobs {seed}")
    made: list[Job] = []
    while len(made) < count:
        shape = draw.random()
        if shape < 0.05 and len(made) + 2 <= count:
            first = _job(draw, len(made))
            made += [first, _job(draw, len(made) + 1, after=(first.id,))]
        elif shape < 0.08 and len(made) + 3 <= count:
            header = [_job(draw, len(made) + number) for number in range(2)]
            after = tuple(one.id for one in header)
            made += [*header, _job(draw, len(made) + 2, after=after)]
        else:
            meant = draw.choices([*End], [90, 6, 4])[0]
            made.append(_job(draw, len(made), meant=meant))
    return made


def _job(
    draw: random.Random,
    number: int,
    *,
    meant: End = End.SUCCEEDED,
    after: tuple[str, ...] = (),
) -> Job:
    seconds = draw.choice((0.1, 0.3, 0.5, 1.0, 1.0, 3.0))
    endless = meant is End.CANCELLED and seconds >= 1.0  # else a cancel that does nothing passes
    return Job(id=f"chaos-{number:05d}", seconds=seconds, meant=meant, after=after, endless=endless)
