"""Bytes of one stream, kept until the supervisor has dealt with them."""

from __future__ import annotations

from worker.keeper import protocol


class Spool:
    """A window on a stream: ``acked`` <= ``sent`` <= ``end``, never wider than ``capacity``."""

    __slots__ = ("_buffer", "_capacity", "acked", "sent")

    def __init__(self, capacity: int = protocol.SPOOL_BYTES) -> None:
        # One bytearray, not a list of pieces: a job that writes single bytes must not cost more
        # memory than one that writes blocks. Deleting from its front is cheap in CPython.
        self._buffer = bytearray()
        self._capacity = capacity
        self.acked = 0
        self.sent = 0

    @property
    def end(self) -> int:
        return self.acked + len(self._buffer)

    @property
    def room(self) -> int:
        return self._capacity - len(self._buffer)

    def append(self, data: bytes) -> None:
        self._buffer += data

    def ack(self, offset: int) -> None:
        """Forget what is before ``offset``; an offset outside the window is brought inside."""
        offset = min(max(offset, self.acked), self.end)
        del self._buffer[: offset - self.acked]
        self.acked = offset
        self.sent = max(self.sent, offset)

    def rewind(self) -> None:
        """A new supervisor: everything that is not acknowledged is to be sent again."""
        self.sent = self.acked

    def next(self) -> bytes:
        """The next bytes to send, at ``sent``; empty if there are none."""
        start = self.sent - self.acked
        return bytes(self._buffer[start : start + protocol.CHUNK_BYTES])
