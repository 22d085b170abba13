"""An engine's stream of a container's output: frames of stdout and stderr in one connection."""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

_HEADER: Final = struct.Struct(">BxxxL")
_STREAM_OF: Final = {0: 0, 1: 0, 2: 1}
"""The engine's number of a stream to ours: 0 is stdout (some write 0 for it), 1 is stderr."""


class Frames:
    """Takes the connection's bytes in any pieces and gives each stream its own.

    A frame is no line and no write of the job: its payload goes on as soon as any of it is there.
    """

    __slots__ = ("_deliver", "_head", "_left", "_skip", "_stream")

    def __init__(self, deliver: Callable[[int, bytes], None], skip: tuple[int, int]) -> None:
        """``deliver(stream, data)``; of each stream the first ``skip`` bytes are left out."""
        self._deliver = deliver
        self._skip = list(skip)
        self._head = bytearray()
        self._left = 0
        self._stream = 0

    @property
    def whole(self) -> bool:
        """At the end of a frame: an end of the connection here cuts nothing off."""
        return not self._left and not self._head

    def feed(self, data: bytes) -> None:
        """Raises ValueError: these are no frames."""
        at, size = 0, len(data)
        while at < size:
            if not self._left:
                at = self._start(data, at)
                continue
            piece = data[at : at + self._left]
            at += len(piece)
            self._left -= len(piece)
            self._pass_on(piece)

    def _start(self, data: bytes, at: int) -> int:
        if not self._head and len(data) - at >= _HEADER.size:
            kind, self._left = _HEADER.unpack_from(data, at)
            at += _HEADER.size
        else:
            wanted = _HEADER.size - len(self._head)
            self._head += data[at : at + wanted]
            at = min(at + wanted, len(data))
            if len(self._head) < _HEADER.size:
                return at
            kind, self._left = _HEADER.unpack(self._head)
            self._head.clear()
        if kind not in _STREAM_OF:
            raise ValueError(f"the engine's stream holds a frame of kind {kind}")
        self._stream = _STREAM_OF[kind]
        return at

    def _pass_on(self, piece: bytes) -> None:
        skipped = min(self._skip[self._stream], len(piece))
        if skipped:
            self._skip[self._stream] -= skipped
            piece = piece[skipped:]
        if piece:
            self._deliver(self._stream, piece)
