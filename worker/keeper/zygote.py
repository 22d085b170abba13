"""Starts keepers: the slot worker's side of its zygote."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tasks.errors import PlatformError, RuntimeUnavailable
from worker.keeper import descriptors, protocol

_PID = struct.Struct("!i")
_ANSWER_WITHIN = 10.0
_START = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from worker.keeper.zygote_main import main; main({fd})"
)


class Zygote:
    """One prewarmed process that forks keepers. Thread-safe; starts when first needed.

    It is bound to the process that started it: a forked child gets a zygote of its own. Should it
    die, the next spawn starts another; the keepers that it forked live on either way.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._owner = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._resting: socket.socket | None = None

    @property
    def pid(self) -> int | None:
        """The zygote's process id, None while there is none."""
        return self._process.pid if self._process and self._owner == os.getpid() else None

    def start(self) -> None:
        """Start it now rather than at the first attempt. Does nothing if it runs.

        Raises:
            RuntimeUnavailable: it does not start.
        """
        with self._mutex:
            self._ensure()

    def spawn(self, spec: protocol.Spec, lock: int, leases: Sequence[int]) -> socket.socket:
        """Wake the keeper that rests, or fork one; returns this end of its connection, on which
        it says hello.

        The descriptors stay the caller's; the keeper gets its own copies of the same open files.

        Raises:
            RuntimeUnavailable: there is no keeper.
        """
        content = os.memfd_create("spec")
        try:
            os.write(content, json.dumps(spec).encode())
            fds = [lock, content, *leases]
            with self._mutex:
                return self._wake(fds) or self._fork(fds)
        finally:
            os.close(content)

    def take_back(self, connection: socket.socket) -> None:
        """The keeper at the other end rests: it may keep the next attempt. One at most does; the
        end of its connection ends any other."""
        with self._mutex:
            self._ensure_owner()
            if self._resting is None:
                self._resting = connection
                return
        connection.close()

    def _wake(self, fds: Sequence[int]) -> socket.socket | None:
        """Ask the resting keeper; None if there is none, or it is gone."""
        self._ensure_owner()
        connection, self._resting = self._resting, None
        if connection is not None:
            try:
                descriptors.send(connection, fds)
            except OSError:
                connection.close()
                return None
        return connection

    def _fork(self, fds: Sequence[int]) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._request([theirs.fileno(), *fds])
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return ours

    def close(self) -> None:
        """End the zygote and the keeper that rests; those with an attempt live on. Safe to call
        twice."""
        with self._mutex:
            self._ensure_owner()
            if self._resting is not None:
                self._resting.close()
                self._resting = None
            self._discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _request(self, fds: Sequence[int]) -> None:
        for last in (False, True):
            channel = self._ensure()
            try:
                descriptors.send(channel, fds)
                answer = channel.recv(_PID.size)
            except OSError as error:
                self._discard()
                # Only a packet that did not go out may go out again: two keepers must not run.
                if last or error.errno not in (errno.EPIPE, errno.ECONNRESET):
                    raise RuntimeUnavailable(
                        f"the keepers' zygote does not answer: {error}"
                    ) from error
                continue
            if not answer:
                self._discard()
                raise RuntimeUnavailable(
                    "the keepers' zygote ended while it was asked for a keeper"
                )
            pid = _PID.unpack(answer)[0]
            if pid < 0:
                raise RuntimeUnavailable(f"no keeper can be forked: {os.strerror(-pid)}")
            return

    def _ensure_owner(self) -> None:
        """Forked since: the parent's zygote is not ours to talk to, nor to end."""
        if self._owner in (0, os.getpid()):
            return
        self._owner, self._process = 0, None
        for connection in (self._socket, self._resting):
            if connection is not None:
                connection.close()
        self._socket = self._resting = None

    def _ensure(self) -> socket.socket:
        self._ensure_owner()
        if self._socket is None:
            self._launch()
        assert self._socket is not None  # noqa: S101 - for the type checker
        return self._socket

    def _launch(self) -> None:
        if not sys.platform.startswith("linux"):
            raise PlatformError("keepers need Linux (subreaper, signals of pipes, /proc)")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(_ANSWER_WITHIN)
        # The interpreter behind venv links: a start script on PATH costs more than a fork.
        interpreter = str(Path(sys.executable).resolve())
        root = str(Path(__file__).resolve().parents[2])
        code = _START.format(fd=theirs.fileno())
        library_path = os.environ.get("LD_LIBRARY_PATH")
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [interpreter, "-I", "-S", "-X", "utf8", "-c", code, root],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    env={"LD_LIBRARY_PATH": library_path} if library_path else {},
                    cwd="/",
                    start_new_session=True,  # a signal to the slot worker's group is not for it
                )
            ready = ours.recv(_PID.size)
        except OSError as error:
            ours.close()
            raise RuntimeUnavailable(f"the keepers' zygote does not start: {error}") from error
        self._socket, self._owner = ours, os.getpid()
        if not ready:
            self._discard()
            raise RuntimeUnavailable(f"the keepers' zygote ended at its start ({interpreter})")

    def _discard(self) -> None:
        if self._owner != os.getpid():
            return
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=1)
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
            self._process = None
