"""The job's stdout and stderr on their way from its pipes into the spools."""

from __future__ import annotations

import os

from worker.keeper import protocol
from worker.keeper.spool import Spool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Streams:
    """Reads no more than there is room for: a job that nobody listens to blocks in its write."""

    def __init__(self, forget: Callable[[int], None]) -> None:
        """``forget(fd)`` is called before a pipe is closed."""
        self._forget = forget
        self.spools = [Spool() for _ in range(protocol.STREAMS)]
        self._pipes = [-1] * protocol.STREAMS

    def open(self, pipes: list[int]) -> None:
        """Take over these non-blocking read ends."""
        self._pipes = list(pipes)

    @property
    def closed(self) -> bool:
        """Everything that was written is in the spools."""
        return all(pipe < 0 for pipe in self._pipes)

    def pipe(self, index: int) -> int:
        """The descriptor of a stream, -1 once it is at its end."""
        return self._pipes[index]

    def readable(self, index: int) -> bool:
        """Whether more of this stream is wanted now."""
        return self._pipes[index] >= 0 and self.spools[index].room > 0

    def read(self, index: int, *, writers_dead: bool = False) -> bool:
        """Take one piece; False when there is none now.

        With ``writers_dead``, "none now" is the end, even where somebody outside the attempt
        holds the other end of the pipe open.
        """
        if not self.readable(index):
            return False
        wanted = min(protocol.CHUNK_BYTES, self.spools[index].room)
        try:
            data = os.read(self._pipes[index], wanted)
        except BlockingIOError:
            if writers_dead:
                self._close(index)
            return False
        if not data:
            self._close(index)
            return False
        self.spools[index].append(data)
        return True

    def drain(self) -> None:
        """All writers are dead: take what they left, as far as there is room."""
        for index in range(protocol.STREAMS):
            while self.read(index, writers_dead=True):
                pass

    def close(self) -> None:
        """Take no more, whatever there is."""
        for index in range(protocol.STREAMS):
            if self._pipes[index] >= 0:
                self._close(index)

    def _close(self, index: int) -> None:
        self._forget(self._pipes[index])
        os.close(self._pipes[index])
        self._pipes[index] = -1
