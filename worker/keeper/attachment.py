"""A container's output on its way from the engine into the spools, without loss or repetition."""

from __future__ import annotations

import math
import select
import time

from worker.keeper.engine import Exchange
from worker.keeper.frames import Frames
from worker.keeper.watch import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from worker.keeper.spool import Spool
    from worker.keeper.watch import Watch

_HEAD_WITHIN: Final = 20.0
_PIECE: Final = 1 << 16
_PIECES: Final = 64
_FIRST_WORDS: Final = 4096
_TAIL: Final = 1 << 16
_ALL: Final = "stdout=1&stderr=1"
_RETRIES: Final = 60
_RETRY_EVERY: Final = 0.5
_LULL: Final = 0.001
"""Seconds for which more is let gather where one piece follows the other within that time: a round
of the keeper's loop, a frame and an acknowledgement for each few lines would cost more than the
lines. A job that prints now and then is heard at once."""


class Attachment:
    """Reads no more than there is room for: a container that nobody listens to blocks in its
    write, once the buffers on the way are full."""

    def __init__(self, socket: str, base: str, spools: list[Spool], watch: Watch) -> None:
        self._socket = socket
        self._base = base
        self._spools = spools
        self._watch = watch
        self._exchange: Exchange | None = None
        self._frames = Frames(self._deliver, (0, 0))
        self._tails = [bytearray(), bytearray()]
        """The last that was delivered of each stream."""
        self._known = [b"", b""]
        """What the engine's log will say again before it says what is new."""
        self._finished = False
        self._tries = 0
        self._retry_at = math.inf
        self._read_at = -math.inf
        self._lull_until = -math.inf
        self._held_back = False
        """There is room for more, and it is not read yet."""
        self.broken = False
        """The connection ended where no stream does."""
        self.over = False
        """Everything that there was has been read."""
        self.first_words = bytearray()
        """What was written to stderr first: an init says there why it could not start a program."""

    def attach(self) -> None:
        """Before the container starts. Raises OSError: the engine does not let us."""
        url = f"{self._base}/attach?stream=1&{_ALL}"
        exchange = Exchange(self._socket, "POST", url, upgrade=True)
        until = time.monotonic() + _HEAD_WITHIN
        while not exchange.reader.status:
            if not select.select([exchange.fd], [], [], max(0.0, until - time.monotonic()))[0]:
                raise TimeoutError("the engine does not answer")
            exchange.advance()
        if exchange.reader.status not in (101, 200):
            answer = exchange.reader.answer
            exchange.close()
            raise OSError(f"the engine does not show the container's output: {answer.text()}")
        self._exchange = exchange

    def reattach(self) -> None:
        """The engine is back and the container runs: go on where we were. Raises OSError."""
        self._open(follow=True)

    def hang_up(self) -> None:
        """The engine is away."""
        self._close()
        self.broken = True

    def finish(self) -> None:
        """The container is dead: what is left comes from where it came from so far, or from the
        engine's log."""
        self._finished = True
        if self.broken:
            self._retry_at = 0.0
        elif self._exchange is None:
            self.over = True

    def drain(self) -> None:
        if self.broken and not self.over and self._exchange is None:
            now = time.monotonic()
            if now >= self._retry_at:
                self._retry(now)

    def next_due(self, now: float) -> float:
        if self._exchange is not None:
            # also where that is past by now: it was not when `declare` looked
            return self._lull_until if self._held_back else math.inf
        return self._retry_at if self.broken and not self.over else math.inf

    def declare(self) -> None:
        if self._exchange is not None:
            room = self._room() > 0
            self._held_back = room and time.monotonic() < self._lull_until
            mask = READ if room and not self._held_back else 0
            self._watch.want(self._exchange.fd, mask, self._read)

    def _retry(self, now: float) -> None:
        self._tries += 1
        try:
            self._open(follow=False)
        except OSError:
            # an engine that stays away takes the rest with it
            self.over = self._tries >= _RETRIES
            self._retry_at = now + _RETRY_EVERY

    def _open(self, *, follow: bool) -> None:
        self._close()
        url = f"{self._base}/logs?{_ALL}&follow={int(follow)}"
        self._exchange = Exchange(self._socket, "GET", url)
        self._known = [bytes(tail[-_TAIL:]) for tail in self._tails]
        before = [
            spool.end - len(known) for spool, known in zip(self._spools, self._known, strict=True)
        ]
        self._frames = Frames(self._recognise, (before[0], before[1]))
        self.broken = False

    def _room(self) -> int:
        return min(spool.room for spool in self._spools)

    def _read(self) -> None:
        exchange = self._exchange
        if exchange is None:
            return
        reader = exchange.reader
        now = time.monotonic()
        self._lull_until = now + _LULL if now < self._read_at + 2 * _LULL else now
        self._read_at = now
        try:
            # engines send small pieces: take all that is there before going round the loop
            for _ in range(_PIECES):
                room = self._room()
                data = exchange.stream(min(_PIECE, room)) if room > 0 else None
                if data is None:
                    break
                if data:
                    self._frames.feed(data)
                if reader.complete:
                    break
        except (OSError, ValueError):
            self._break()
            return
        if reader.complete:
            self._end(reader.status)

    def _end(self, status: int) -> None:
        whole = self._frames.whole and status in (101, 200)
        self._close()
        if not whole:
            self._break()
        elif self._finished:
            self.over = True

    def _break(self) -> None:
        self._close()
        self.broken = True
        if self._finished:
            self._retry_at = time.monotonic() + _RETRY_EVERY
            self._tries += 1
            self.over = self._tries >= _RETRIES

    def _close(self) -> None:
        if self._exchange is not None:
            self._watch.forget(self._exchange.fd)
            self._exchange.close()
            self._exchange = None

    def _recognise(self, stream: int, data: bytes) -> None:
        """Pass on what is new. An engine that was killed may not have logged the last that it
        showed us: then what comes next stands where that should be."""
        known = self._known[stream]
        if known:
            pairs = enumerate(zip(known, data, strict=False))
            same = next((at for at, (old, new) in pairs if old != new), min(len(known), len(data)))
            self._known[stream] = known[same:] if same == len(data) else b""
            data = data[same:]
        if data:
            self._deliver(stream, data)

    def _deliver(self, stream: int, data: bytes) -> None:
        tail = self._tails[stream]
        tail += data[-_TAIL:]
        if len(tail) > 4 * _TAIL:
            del tail[:-_TAIL]
        if stream == 1 and len(self.first_words) < _FIRST_WORDS:
            self.first_words += data[: _FIRST_WORDS - len(self.first_words)]
        self._spools[stream].append(data)
