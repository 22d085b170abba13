"""GPU slots whose devices no container saw when they began: they begin again, to look once more.

What was in the way may be gone by now: somebody else's process on the GPU, a driver or a toolkit
that was not there yet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from worker.node import slot_records
from worker.node.paths import NodePaths
from worker.node.slot_worker import SlotWorker, WorkerState

_FIRST_S: Final = 5.0
_MOST_S: Final = 600.0


class SecondLooks:
    """Steps with the agent's loop; one thread."""

    def __init__(self, paths: NodePaths, *, busy: Callable[[str], bool]) -> None:
        """``busy``: whether a slot has a job."""
        self._paths = paths
        self._busy = busy

    def step(self, now: float, workers: Sequence[SlotWorker]) -> None:
        """Do what is due at ``now``, seconds since the epoch."""
        for worker in workers:
            if not worker.slot.devices or worker.state is not WorkerState.READY:
                continue
            unseen = slot_records.unseen(self._paths, worker.slot.name)
            if unseen is not None and due(unseen, now) and not self._busy(worker.slot.name):
                worker.refresh()


def due(unseen: slot_records.Unseen, now: float) -> bool:
    """Whether it is time to look again: each time after twice as long, at most ten minutes. A clock
    that was set back holds nothing up for longer."""
    wait = min(_MOST_S, _FIRST_S * 2 ** min(unseen.times - 1, 20))
    return not 0 <= now - unseen.at < wait
