"""Kills a container whose keeper died: a small process that does nothing but wait for that.

A native job dies with its keeper by the kernel's hand, as a rule; a container is the engine's
child, and would run on with nobody to hold its deadline. It holds the leases too: what is killed
last frees them.
"""

# No pathlib here: its import costs each slot a megabyte.
# ruff: noqa: PTH208

from __future__ import annotations

import contextlib
import os
import select
import signal
import time

from worker.keeper import engine, prctl, procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, NoReturn

_PERSIST: Final = 120.0
_KILLED_WITHIN: Final = 1.0
_STARTS_WITHIN: Final = 5.0
_DISMISSED: Final = b"x"
_AGAIN: Final = 0.5


class Mourner:
    """The keeper's side of it."""

    def __init__(self, socket: str, base: str, leases: list[int]) -> None:
        """Fork it. Raises OSError: it cannot be. ``base``: the URL of the container."""
        read, self._write = os.pipe2(os.O_CLOEXEC)
        self._pid = os.fork()
        if self._pid == 0:
            _mourn(read, leases, socket, base)
        os.close(read)

    def know(self, pid: int) -> None:
        """The container's first process, which runs now: the kernel can kill it without an
        engine."""
        with contextlib.suppress(OSError):
            os.write(self._write, b"%d\n" % pid)

    def dismiss(self) -> None:
        """The container is dead, or is not to die: end, and let go of the leases."""
        with contextlib.suppress(OSError):
            os.write(self._write, _DISMISSED)
        os.close(self._write)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)


def _mourn(read: int, leases: list[int], socket: str, base: str) -> NoReturn:
    try:
        prctl.set_name("cyxwiz-mourner")
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        kept = {read, *leases}
        for name in os.listdir("/proc/self/fd"):
            if int(name) not in kept:
                with contextlib.suppress(OSError):
                    os.close(int(name))
        pid, first, said = 0, -1, b""
        while _DISMISSED not in said and (said := os.read(read, 64)):
            with contextlib.suppress(OSError, ValueError):  # it has ended already
                first = os.pidfd_open(pid := int(said))
        if not said:
            _end(socket, base, pid, first)
    finally:
        os._exit(0)


def _end(socket: str, base: str, pid: int, first: int) -> None:
    """``pid``, ``first``: of the container's first process, with which all of it dies, and its
    pidfd; or 0 and -1."""
    if first >= 0:
        if not select.select([first], [], [], 0)[0]:  # it lives, so this is its pid
            procfs.kill_below(pid)
        with contextlib.suppress(OSError):  # it is dead, or another user's: then the engine's
            signal.pidfd_send_signal(first, signal.SIGKILL)
        if select.select([first], [], [], _KILLED_WITHIN)[0]:
            return
    begun = time.monotonic()
    # a start that was asked for may be on its way yet: then it does not run, and will
    may_start = begun + (_STARTS_WITHIN if first < 0 else 0.0)
    while (now := time.monotonic()) < begun + _PERSIST:
        try:
            status = engine.call(socket, "POST", f"{base}/kill?signal=9", within=20).status
            # 404: it is gone; 409: it does not run
            if status == 404 or (status == 409 and now >= may_start):
                return
        except OSError:
            pass  # the engine is away, and may come back
        time.sleep(_AGAIN)
