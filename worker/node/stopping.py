"""A node's stop, stage by stage: each one is stronger than the one before."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from enum import IntEnum

from worker.config import NodeConfig
from worker.node.log import event
from worker.node.slot_worker import SlotWorker
from worker.node.slots import MARGIN_S
from worker.node.standing import Standing
from worker.node.stop_bell import StopBell
from worker.store.policy import LAST_CHECKPOINT_S


def hand_back_s(config: NodeConfig) -> float:
    """The seconds that a slot worker may take to hand its job back: the job's own grace first,
    then its last checkpoint is sent."""
    last = 0.0 if config.storage.checkpoint_store is None else LAST_CHECKPOINT_S
    return config.timeouts.stop_grace + last + MARGIN_S


class Stage(IntEnum):
    """How far a stop has come."""

    SERVING = 0
    DRAINING = 1
    """Jobs in progress end first."""
    QUITTING = 2
    """They are handed back, or left to the node's next start."""
    KILLING = 3


class Stopping:
    """Driven by `step`, on the agent's thread."""

    def __init__(self, bell: StopBell, standing: Standing, *, drain: float | None) -> None:
        """``drain``: seconds that jobs in progress have; None: as long as they take."""
        self._bell = bell
        self._standing = standing
        self._drain = drain
        self._drain_until: float | None = None
        self._stage = Stage.SERVING
        self._leaves = False

    @property
    def begun(self) -> bool:
        return self._stage > Stage.SERVING

    @property
    def waits(self) -> bool:
        """Jobs in progress may end by themselves."""
        return self._stage <= Stage.DRAINING

    @property
    def leaves(self) -> bool:
        """Jobs in progress are left running."""
        return self._leaves

    def step(self, now: float, workers: Sequence[SlotWorker], *, away: float) -> None:
        """Do what was asked for, and what time asks for at ``now`` (time.monotonic()).

        ``away``: seconds that jobs which are left wait for the node's next start.
        """
        if self._bell.leaves and not self._leaves and self._stage < Stage.QUITTING:
            self._leave(now, workers, away)
        wanted = self._wanted(now)
        if wanted >= Stage.DRAINING > self._stage:
            event("node.draining", bound=self._drain)
            self._standing.stops(
                "node stopping: jobs in progress end first (again: they are handed back)"
            )
            self._drain_until = None if self._drain is None else now + self._drain
            for worker in workers:
                worker.drain()
        if wanted >= Stage.QUITTING > self._stage:
            event("node.quitting", level=logging.WARNING)
            self._standing.say(
                "node stopping now: jobs in progress are handed back (again: killed)"
            )
            for worker in workers:
                worker.quit(now)
        if wanted >= Stage.KILLING > self._stage:
            for worker in workers:
                worker.kill()
        self._stage = max(self._stage, wanted)

    def wake_at(self) -> float | None:
        """When `step` has something to do next, unless it is asked for."""
        return self._drain_until if self._stage is Stage.DRAINING else None

    def _wanted(self, now: float) -> Stage:
        until = self.wake_at()
        overdue = until is not None and now >= until
        asked = Stage(min(self._bell.rings, Stage.KILLING))
        return max(asked, Stage.QUITTING) if overdue else asked

    def _leave(self, now: float, workers: Sequence[SlotWorker], away: float) -> None:
        self._leaves = True
        self._stage = Stage.QUITTING
        event("node.leaving", away=away)
        self._standing.stops(
            f"node stopping: jobs in progress go on, and wait {away:g} s for its next start"
        )
        for worker in workers:
            worker.leave(now, away)
