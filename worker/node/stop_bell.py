"""Counts the requests to stop and to read the configuration again, from signals and threads alike,
and wakes the loop that obeys.

SIGTERM and SIGINT are one request to stop each, SIGQUIT is two at once, and SIGUSR1 asks to stop
and leave the jobs in progress running. SIGHUP asks to read the configuration again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType
from typing import Any, Final, Self

_SIGNALS: Final = (
    *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP),
    *(signal.SIGQUIT, signal.SIGUSR1),
)


class StopBell:
    """Rung by SIGTERM and SIGINT while entered in the main thread, or by `ring`; SIGHUP is counted
    apart.

    The interpreter itself writes to the pipe as a signal arrives (`signal.set_wakeup_fd`). A
    handler alone would not do: it runs between two instructions, so one for a signal that comes
    just before the loop blocks would wait until something else wakes it.
    """

    def __init__(self) -> None:
        self._hears = self._rung = -1
        self._wakes_before: int | None = None
        self._rings = 0
        self._leaves = False
        self._reloads = 0
        self._before: dict[signal.Signals, Any] = {}

    @property
    def rings(self) -> int:
        """How often it was rung."""
        return self._rings

    @property
    def leaves(self) -> bool:
        """Whether jobs in progress shall be left running."""
        return self._leaves

    def leave(self) -> None:
        """Ask to stop and leave the jobs in progress. From any thread."""
        self._leaves = True
        self.nudge()

    @property
    def reloads(self) -> int:
        """How often the configuration was to be read again."""
        return self._reloads

    def reload(self) -> None:
        """From any thread, and from a signal handler."""
        self._reloads += 1
        self.nudge()

    def ring(self) -> None:
        """From any thread, and from a signal handler; also before it is entered."""
        self._rings += 1
        self.nudge()

    def nudge(self) -> None:
        """Wake the loop, and ask for no stop. From any thread."""
        if self._rung >= 0:
            with contextlib.suppress(BlockingIOError):  # full of rings that will be heard
                os.write(self._rung, b"!")

    def fileno(self) -> int:
        """Readable once it was rung, until `clear`."""
        return self._hears

    def clear(self) -> None:
        """Heard; the count stays."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._hears, 4096):
                pass

    def __enter__(self) -> Self:
        self._hears, self._rung = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        if threading.current_thread() is threading.main_thread():
            self._wakes_before = signal.set_wakeup_fd(self._rung, warn_on_full_buffer=False)
            for number in _SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGUSR1:
            self.leave()
            return
        if number == signal.SIGHUP:
            self.reload()
            return
        for _ in range(2 if number == signal.SIGQUIT else 1):
            self.ring()

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
        if self._wakes_before is not None:
            signal.set_wakeup_fd(self._wakes_before)
            self._wakes_before = None
        fds = self._hears, self._rung
        self._hears = self._rung = -1
        for fd in fds:
            os.close(fd)
