"""Which CPUs an attempt runs on, where nothing but its own processes can be told.

Kept to a number of CPUs, a job cannot use more. It could choose others, if it may choose at all.
"""

# No pathlib here: its import costs each slot a megabyte.
# ruff: noqa: PTH208

from __future__ import annotations

import contextlib
import math
import os

from worker.keeper import procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

_QUIET_PASSES: Final = 3
_MOST_PASSES: Final = 200


def affinity(slot: str, cores: float, available: list[int]) -> set[int] | None:
    """The CPUs of a job that may use ``cores``: None where that is all of them.

    The number in the slot's name spreads the slots of a node over its CPUs.
    """
    wanted = math.ceil(cores)
    if wanted <= 0 or wanted >= len(available):
        return None
    digits = slot[len(slot.rstrip("0123456789")) :]
    first = int(digits or 0) * wanted
    return {available[(first + step) % len(available)] for step in range(wanted)}


def keep_to(first: int, cpus: set[int] | None) -> None:
    """Move process ``first`` and all that descend from it. None: they may run on all.

    What they fork later inherits it; what they fork meanwhile is caught by going through them
    again. A list of what forks may lack something: only when several have shown nothing new is
    there none. One that forks without end is given up: the host shows whether it was caught.
    """
    if not cpus:
        return
    moved: set[int] = set()
    quiet = 0
    for _ in range(_MOST_PASSES):
        if quiet == _QUIET_PASSES:
            return
        new = set(_threads(first)) - moved
        quiet = 0 if new else quiet + 1
        for thread in new:
            with contextlib.suppress(OSError):
                os.sched_setaffinity(thread, cpus)
        moved |= new


def _threads(first: int) -> Iterator[int]:
    for pid in (first, *(one.pid for one in procfs.descendants(first))):
        with contextlib.suppress(OSError):
            yield from map(int, os.listdir(f"/proc/{pid}/task"))
