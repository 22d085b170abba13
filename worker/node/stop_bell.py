"""Counts the requests to stop, from signals and threads alike, and wakes the loop that obeys."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import TracebackType
from typing import Any, Final, Self

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class StopBell:
    """Rung by SIGTERM, SIGINT and SIGHUP while entered in the main thread, or by `ring`."""

    def __init__(self) -> None:
        self._fd = -1
        self._rings = 0
        self._before: dict[signal.Signals, Any] = {}

    @property
    def rings(self) -> int:
        """How often it was rung."""
        return self._rings

    def ring(self) -> None:
        """From any thread, and from a signal handler; also before it is entered."""
        self._rings += 1
        if self._fd >= 0:
            os.eventfd_write(self._fd, 1)

    def fileno(self) -> int:
        """Readable once it was rung, until `clear`."""
        return self._fd

    def clear(self) -> None:
        """Heard; the count stays."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._fd)

    def __enter__(self) -> Self:
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                    self._before[number] = signal.signal(number, lambda *_: self.ring())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
        fd, self._fd = self._fd, -1
        os.close(fd)
