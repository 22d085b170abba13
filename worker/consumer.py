"""Celery's consumer in a slot's worker: what it tells Flower of a short job goes out together.

Celery publishes each event of a task at once, which costs a worker about a third of what it does
for a job of a few milliseconds. Here they gather for a moment, as Celery's own buffer lets them:
nothing is dropped, and each keeps the time at which it happened.
"""

from __future__ import annotations

import time
from typing import Final

from celery.worker.consumer import Consumer

GATHER_S: Final = 0.1
"""How long events wait for others."""


class SlotConsumer(Consumer):  # type: ignore[misc]  # Celery has no type hints
    """See the module's docstring. Celery finds it by its setting ``worker_consumer``."""

    _due = 0.0
    """When the events that wait go out, by time.monotonic()."""

    def on_send_event_buffered(self) -> None:
        """Celery's hook: an event of a task was put into the buffer."""
        now = time.monotonic()
        # by time, not by a flag: a new connection's loop forgets what was to be called
        if self.hub and now >= self._due:
            self._due = now + GATHER_S
            self.hub.call_later(GATHER_S, self._flush_events)

    def stop(self) -> None:
        """The worker ends: what waits goes out first."""
        self._flush_events()
        super().stop()

    def shutdown(self) -> None:
        """The last job has ended since: its events too."""
        self._flush_events()
        super().shutdown()
