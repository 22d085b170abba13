"""Which of the fitting devices a job gets: an order, and for several devices their closeness. Pure.

Every strategy sorts by something and then by the order in which the candidates came, so that the
same question has one answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

from worker.devices.inventory import Device


class Strategy(StrEnum):
    """How devices are chosen."""

    LEAST_UTILIZED = "least_utilized"
    """The one with the fewest jobs, then the least busy."""
    MOST_MEMORY = "most_memory"
    """The one with the most memory to be had."""
    ROUND_ROBIN = "round_robin"
    """The one that was given longest ago."""
    AFFINITY = "affinity"
    """The one that the same user had last: its caches may be warm; then the least utilised."""
    FIRST_AVAILABLE = "first_available"
    """The first in the driver's order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A device that could be given, with what strategies look at."""

    device: Device
    jobs: int = 0
    """How many have it now."""
    free_mb: int = 0
    """Memory that is neither in foreign use nor promised to a job, MiB."""
    given: int = 0
    """A number that rises with each grant of the pool: of this device's last one."""
    last_user: str = ""

    @property
    def uuid(self) -> str:
        return self.device.uuid


Closeness = Callable[[str, str], int]


def ordered(strategy: Strategy, candidates: Sequence[Candidate], user: str = "") -> list[Candidate]:
    """All candidates, the one to take first in front."""
    key = _KEYS[strategy]
    return sorted(candidates, key=lambda one: key(one, user))


def pick(
    strategy: Strategy,
    candidates: Sequence[Candidate],
    count: int,
    *,
    user: str = "",
    distance: Closeness = lambda one, other: 0,
) -> list[Candidate]:
    """``count`` of the candidates: close to each other, then as the strategy orders them.

    Empty where there are not so many. Each candidate is tried as the first, with the nearest
    beside it: the set with the smallest sum of distances is taken.
    """
    order = ordered(strategy, candidates, user)
    if count < 1 or len(order) < count:
        return []
    if count == 1:
        return order[:1]
    best: list[int] = []
    best_far = -1
    for seed in range(len(order)):
        chosen, far = _grown(order, seed, count, distance)
        if best_far < 0 or (far, chosen) < (best_far, best):
            best, best_far = chosen, far
    return [order[place] for place in best]


def _grown(
    order: Sequence[Candidate], seed: int, count: int, distance: Closeness
) -> tuple[list[int], int]:
    """The places of a set around ``seed``, sorted, and the sum of its distances."""
    chosen, total = [seed], 0
    while len(chosen) < count:
        rest = [place for place in range(len(order)) if place not in chosen]
        far, nearest = min(
            (sum(distance(order[place].uuid, order[one].uuid) for one in chosen), place)
            for place in rest
        )
        chosen.append(nearest)
        total += far
    return sorted(chosen), total


_Key = Callable[[Candidate, str], Any]


def _least_utilized(one: Candidate, user: str) -> Any:
    busy = one.device.utilisation
    return one.jobs, 0 if busy is None else busy, one.device.used_mb


_KEYS: Final[Mapping[Strategy, _Key]] = MappingProxyType(
    {
        Strategy.LEAST_UTILIZED: _least_utilized,
        Strategy.MOST_MEMORY: lambda one, user: -one.free_mb,
        Strategy.ROUND_ROBIN: lambda one, user: one.given,
        Strategy.AFFINITY: lambda one, user: (
            not (user and one.last_user == user),
            _least_utilized(one, user),
        ),
        Strategy.FIRST_AVAILABLE: lambda one, user: (one.device.parent, one.device.index),
    }
)
