"""SIGTERM: save a checkpoint and exit. SIGUSR1: save one and go on.

A handler only takes note, and the loop acts between two steps, where the state is whole. Before
training has begun there is nothing to save: then SIGTERM ends the run at once.
"""

from __future__ import annotations

import signal
from types import FrameType

from worker.runner.faults import Terminated


class Signals:
    """What the node has asked for."""

    def __init__(self) -> None:
        self._training = False
        self._terminate = False
        self._checkpoint = False

    def listen(self) -> None:
        """Install the handlers; only in the main thread."""
        signal.signal(signal.SIGTERM, self._on_terminate)
        signal.signal(signal.SIGUSR1, self._on_checkpoint)

    def begin_training(self) -> None:
        """From now on SIGTERM waits for the end of a step. Raises Terminated if it has come."""
        self._training = True
        if self._terminate:
            self.end_now()

    def end_training(self) -> None:
        """The model is about to be written: SIGTERM ends the run at once again."""
        self._training = False
        if self._terminate:
            self.end_now()

    @property
    def terminate(self) -> bool:
        """Whether SIGTERM has come."""
        return self._terminate

    def take_checkpoint(self) -> bool:
        """Whether one has been asked for since the last call."""
        asked, self._checkpoint = self._checkpoint, False
        return asked

    def ignore(self) -> None:
        """All is done but the last word, which must not be cut off."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)

    def end_now(self) -> None:
        """Raises Terminated."""
        raise Terminated("stopped by SIGTERM before there was anything to save")

    def _on_terminate(self, number: int, frame: FrameType | None) -> None:
        self._terminate = True
        if not self._training:
            self.end_now()

    def _on_checkpoint(self, number: int, frame: FrameType | None) -> None:
        self._checkpoint = True
