"""Signals: SIGTERM asks for a checkpoint and the end, SIGUSR1 for a checkpoint.

A handler only notes what was asked; the training loop looks between two batches, where the state
is whole.
"""

from __future__ import annotations

import signal
from types import FrameType


class Asked:
    """What was asked for since the last look."""

    def __init__(self) -> None:
        self.stop = False
        self._checkpoint = False

    def listen(self) -> None:
        """Take the two signals. Main thread only."""
        signal.signal(signal.SIGTERM, self._on_stop)
        if hasattr(signal, "SIGUSR1"):
            signal.signal(signal.SIGUSR1, self._on_checkpoint)

    def checkpoint(self) -> bool:
        """Whether a checkpoint was asked for since the last call."""
        asked, self._checkpoint = self._checkpoint, False
        return asked

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        self.stop = True

    def _on_checkpoint(self, number: int, frame: FrameType | None) -> None:
        self._checkpoint = True
