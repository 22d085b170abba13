"""Which descriptors the keeper waits for, and what is called when one is ready."""

from __future__ import annotations

import math
import os
import select
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

READ = getattr(select, "EPOLLIN", 1)
WRITE = getattr(select, "EPOLLOUT", 4)


class Watch:
    """An epoll whose set is declared, not edited."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._masks: dict[int, int] = {}
        self._handlers: dict[int, Callable[[], object]] = {}

    def want(self, fd: int, mask: int, handler: Callable[[], object]) -> None:
        """Call ``handler`` when ``fd`` is ready for ``mask``; 0 is for nothing at all.

        Nothing means not in the set: epoll reports a hang-up even where no event is asked for,
        and a full spool behind an ended writer would spin.
        """
        if fd < 0 or self._masks.get(fd, 0) == mask:
            return
        if mask == 0:
            self.forget(fd)
            return
        if fd in self._masks:
            self._poll.modify(fd, mask)
        else:
            self._poll.register(fd, mask)
        self._masks[fd] = mask
        self._handlers[fd] = handler

    def forget(self, fd: int) -> None:
        """Before a descriptor is closed: a forked child may hold a copy that keeps it in epoll."""
        if self._masks.pop(fd, 0):
            self._poll.unregister(fd)
            del self._handlers[fd]

    def close(self) -> None:
        self._poll.close()

    def wait(self, seconds: float) -> None:
        """Wait for at most ``seconds`` and call the handlers of what is ready."""
        timeout = None if seconds == math.inf else max(0.0, seconds)
        for fd, _ in self._poll.poll(timeout):
            handler = self._handlers.get(fd)
            if handler is not None:
                handler()


class ChildSignal:
    """SIGCHLD as a descriptor: ``fd`` is readable when a child has changed state."""

    def __init__(self) -> None:
        self.fd, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)

    def clear(self) -> None:
        try:
            while os.read(self.fd, 4096):
                pass
        except BlockingIOError:
            pass

    def close(self) -> None:
        signal.set_wakeup_fd(-1)
        os.close(self.fd)
        os.close(self._write)
