"""A node that shall take no new job: its slots' workers end after their jobs, until it may again.

A worker that ends after its job is the one way in which a slot can be trusted to take no other:
Celery's own ways of cancelling a queue are forgotten at its next reconnection.

What has not ended in a drain's time is handed back for as long as the drain holds: by the slot's
worker, or, where that has died or never was (the node was away), by one that is started for it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from tasks.cordons import Cordon
from worker.node.log import event
from worker.node.slot_worker import SlotWorker, WorkerState


class Cordoning:
    """Keeps what was asked, and does it. `told` may come from any thread, the rest from one."""

    def __init__(self, wake: Callable[[], None]) -> None:
        """``wake``: has `step` called soon."""
        self._wake = wake
        self._lock = threading.Lock()
        self._asked: Cordon | None = None
        self._heeded: Cordon | None = None
        self._quit_at: float | None = None
        self._hands_back = False

    @property
    def cordoned(self) -> bool:
        """Whether the node takes no new job."""
        return self._heeded is not None

    @property
    def hands_back(self) -> bool:
        """Whether the time that a drain gave is over: no job goes on, whatever its slot."""
        return self._hands_back

    def told(self, text: str) -> None:
        """What stands in Redis about this node; '' for nothing."""
        asked = Cordon.parse(text)
        with self._lock:
            new, self._asked = asked != self._asked, asked
        if new:
            self._wake()

    def step(
        self, now: float, configured: Sequence[SlotWorker], workers: Sequence[SlotWorker]
    ) -> bool:
        """Do what is due at ``now`` (time.monotonic()); whether the node is (un)cordoned by it.

        ``configured``: those of ``workers`` that serve where nothing keeps them from it; the others
        only end what they have.
        """
        with self._lock:
            asked = self._asked
        changed = (asked is None) != (self._heeded is None)
        if asked != self._heeded:
            self._heeded = asked
            self._heed(asked, now, configured)
            for worker in workers:
                worker.keep_job()
        self.keep_time(now, workers)
        return changed

    def keep_time(self, now: float, workers: Sequence[SlotWorker]) -> None:
        """Of a drain, whatever else is asked of the node meanwhile."""
        if self._quit_at is not None and now >= self._quit_at:
            self._quit_at, self._hands_back = None, True
            event("node.drained", level=logging.WARNING)
        if self._hands_back:
            for worker in workers:
                if worker.state is not WorkerState.STOPPED and not worker.slot.hands_back:
                    worker.quit(now)

    def wake_at(self) -> float | None:
        """When `step` has something to do next."""
        return self._quit_at

    def _heed(self, asked: Cordon | None, now: float, workers: Sequence[SlotWorker]) -> None:
        self._quit_at, self._hands_back = None, False
        if asked is None:
            event("node.uncordoned")
            for worker in workers:
                worker.serve(now)
            return
        event("node.cordoned", why=asked.why, drain=asked.drain)
        for worker in workers:
            worker.drain()
        if asked.drain is not None:
            self._quit_at = now + asked.drain
