"""What a node does again and again, beside its slots."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class Rounds:
    """A thread that outlives a fault in what it does: nobody else does its work."""

    def __init__(
        self, name: str, once: Callable[[], object], every: float, *, at_once: bool = True
    ) -> None:
        """``once``: one round. ``every``: seconds from the end of one to the next. ``at_once``:
        the first one comes at the start, else after ``every``."""
        self._name = name
        self._once = once
        self._every = every
        self._at_once = at_once
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def stopping(self) -> bool:
        """A round that takes long ends early."""
        return self._stop.is_set()

    def start(self) -> None:
        self._thread.start()

    def stop(self, within: float | None = None) -> None:
        """Returns when the round in progress has ended, or after ``within`` seconds. Safe to call
        twice, and before `start`."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(within)

    def _run(self) -> None:
        due = self._at_once or not self._stop.wait(self._every)
        while due:
            try:
                self._once()
            except Exception:
                log.exception("%s.broken", self._name)
            due = not self._stop.wait(self._every)
