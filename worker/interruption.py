"""A supervisor whose job is handed back when the pool's child is told to end."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from tasks.executor import Delivery, Verdict
from worker.supervisor import Supervisor

_SIGNALS = (signal.SIGTERM, signal.SIGQUIT)


class Interruptible:
    """While a job runs, SIGTERM and SIGQUIT end it in order; the pool's own handlers would raise
    SystemExit in the middle of whatever is being done. What was told is passed on afterwards.

    The handler only writes to a pipe: it runs on the thread that reads the job, between any two of
    its instructions, and may find any lock taken by that very thread. Another thread does the rest.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        """In the process's main thread, which alone may set handlers."""
        self._supervisor = supervisor
        self._told: list[int] = []
        self._hears, self._rings = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._rings, False)
        self._thread = threading.Thread(target=self._obey, name="shutdown", daemon=True)
        self._thread.start()

    def execute(self, delivery: Delivery) -> Verdict:
        """See `tasks.executor.JobExecutor`."""
        with self._in_order():
            return self._supervisor.execute(delivery)

    def stored(self, job_id: str) -> None:
        """See `tasks.executor.JobExecutor`."""
        self._supervisor.stored(job_id)

    def close(self) -> None:
        """End the thread."""
        os.close(self._rings)
        self._thread.join()
        os.close(self._hears)

    @contextlib.contextmanager
    def _in_order(self) -> Iterator[None]:
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        for number in before:
            signal.signal(number, self._handle)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            if self._told:
                os.kill(os.getpid(), self._told[0])

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._told.append(number)
        with contextlib.suppress(BlockingIOError):  # full of what will be heard
            os.write(self._rings, b"!")

    def _obey(self) -> None:
        while os.read(self._hears, 1):
            self._supervisor.shutdown()
