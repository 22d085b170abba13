"""A command beside a native job, seen from the node: its keeper has forked it."""

from __future__ import annotations

import json
import os
import select
import socket
from collections.abc import Sequence

from tasks.errors import KeeperError
from worker.keeper.client import KeeperLink
from worker.runtimes.base import Stream

_PIECE = 1 << 16
_STREAMS = (Stream.STDOUT, Stream.STDERR)


class NativeBeside:
    """See `worker.runtimes.base.Beside`."""

    def __init__(self, link: KeeperLink, argv: Sequence[str]) -> None:
        """Raises KeeperError."""
        self._code: int | None = None
        self._why = ""
        self._over = False
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pipes = [os.pipe2(os.O_CLOEXEC) for _ in _STREAMS]
        self._open = {pipe[0]: stream for pipe, stream in zip(pipes, _STREAMS, strict=True)}
        try:
            link.send_beside(argv, [*(write for _, write in pipes), theirs.fileno()])
        except KeeperError:
            self.close()
            raise
        finally:
            theirs.close()
            for _, write in pipes:
                os.close(write)

    def read(self, timeout: float) -> tuple[Stream, bytes] | int | None:
        while True:
            found = self._output(0 if self._over else timeout)
            if found is not None or not self._over:
                return found
            if self._code is not None:
                return self._code
            raise KeeperError(self._why or "the job has ended, or stands still")

    def close(self) -> None:
        self._line.close()  # its keeper ends it then
        while self._open:
            os.close(self._open.popitem()[0])

    def _output(self, timeout: float) -> tuple[Stream, bytes] | None:
        """The next output; None: there is none, or it is over."""
        waited = [*self._open, *([] if self._over else [self._line.fileno()])]
        ready = select.select(waited, [], [], timeout)[0] if waited else []
        for fd in ready:
            if fd in self._open:
                if data := os.read(fd, _PIECE):
                    return self._open[fd], data
                os.close(fd)
                del self._open[fd]
        if self._line.fileno() in ready:
            self._hear(self._line.recv(_PIECE))
        return None

    def _hear(self, said: bytes) -> None:
        """How it ended; before that, why it could not be executed."""
        if not said:
            self._over = True
        elif said.startswith(b"{"):
            self._code = None if self._why else int(json.loads(said)["code"])
            self._over = True
        else:
            self._why = said.decode(errors="replace")
