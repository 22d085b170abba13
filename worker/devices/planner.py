"""Which devices a node joins to a wide slot, and when it parts them again. Pure.

A slot of its own for each device serves jobs for one. A job that asks for more waits until so many
devices are put together: idle ones, if there are enough. One that has waited longer than some
patience gets busy ones too: their slots take no new job, so that a stream of narrow jobs cannot
starve it. All or nothing: a set is named whole, or not at all, and the oldest job comes first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from tasks.choices import Device as Kind
from worker.devices.inventory import Device
from worker.devices.strategy import Candidate, Closeness, Strategy, pick

PATIENCE_S: Final = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Serving:
    """A slot that takes jobs."""

    name: str
    devices: tuple[str, ...]
    busy: bool = False
    """It has a job now."""

    @property
    def wide(self) -> bool:
        return len(self.devices) > 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Demand:
    """Jobs that wait for so many devices."""

    width: int
    jobs: int = 1
    age: float = 0.0
    """Seconds for which the oldest of them has waited."""
    kind: Kind = Kind.CUDA


@dataclass(frozen=True, kw_only=True, slots=True)
class Reshaping:
    """What is to be done."""

    join: tuple[tuple[str, ...], ...] = ()
    """Sets of devices, each to become a wide slot."""
    part: tuple[str, ...] = ()
    """Wide slots that nobody needs any more."""


def reshape(
    serving: Sequence[Serving],
    demand: Iterable[Demand],
    *,
    distance: Closeness = lambda one, other: 0,
    patience: float = PATIENCE_S,
) -> Reshaping:
    """What to do about jobs that wait for several devices. All that is given is of one kind."""
    wanted = Counter({one.width: one.jobs for one in demand if one.width > 1 and one.jobs > 0})
    ages = {one.width: one.age for one in demand}
    part = []
    for slot in serving:
        if not slot.wide:
            continue
        if wanted[len(slot.devices)] > 0:
            wanted[len(slot.devices)] -= 1  # it serves one of them
        elif not slot.busy:
            part.append(slot.name)
    narrow = {slot.devices[0]: slot for slot in serving if not slot.wide}
    join: list[tuple[str, ...]] = []
    for width in sorted(wanted, key=lambda one: ages.get(one, 0.0), reverse=True):
        for _ in range(wanted[width]):
            chosen = _set(narrow, width, distance, patient=ages[width] <= patience)
            if not chosen:
                break
            join.append(chosen)
            for device in chosen:
                del narrow[device]
    return Reshaping(join=tuple(join), part=tuple(part))


def _set(
    narrow: dict[str, Serving], width: int, distance: Closeness, *, patient: bool
) -> tuple[str, ...]:
    """Devices for one wide slot: idle ones; after some patience others beside them. () for none."""
    idle = [device for device, slot in narrow.items() if not slot.busy]
    if len(idle) >= width:
        return _closest(idle, width, distance)
    if patient or len(narrow) < width:
        return ()
    busy = [device for device, slot in narrow.items() if slot.busy]
    return (*idle, *_closest(busy, width - len(idle), distance))


def _closest(devices: Sequence[str], width: int, distance: Closeness) -> tuple[str, ...]:
    candidates = [
        Candidate(device=Device(uuid=uuid, index=number)) for number, uuid in enumerate(devices)
    ]
    chosen = pick(Strategy.FIRST_AVAILABLE, candidates, width, distance=distance)
    return tuple(one.uuid for one in chosen)
