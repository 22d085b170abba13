"""What a container wrote, kept for people after it is gone: bounded, and not for ever."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from worker.runtimes.base import Stream
from worker.runtimes.engine.errors import EngineError
from worker.runtimes.engine.manager import ContainerManager
from worker.stream.lines import LineBuffer
from worker.stream.masking import Mask

_SUFFIX: Final = ".log"
MOST_BYTES: Final = 32 << 20
"""Of one attempt."""
MOST_IN_ALL: Final = 1 << 30


class KeptLogs:
    """One file for each attempt, both streams as they came, in ``place``."""

    def __init__(self, place: Path, hours: int, most_in_all: int = MOST_IN_ALL) -> None:
        """``hours``: 0 keeps none. ``most_in_all``: bytes."""
        self._place = place
        self._most_in_all = most_in_all
        self._seconds = hours * 3600

    def path(self, attempt: str) -> Path:
        return self._place / f"{attempt}{_SUFFIX}"

    def save(
        self,
        manager: ContainerManager,
        container: str,
        attempt: str,
        mask: Mask | None = None,
    ) -> None:
        """Keep what the stopped ``container`` wrote. What cannot be had is no error. ``mask``: of
        secrets that it had; then its lines are kept as far as events keep them."""
        if not self._seconds:
            return
        self._place.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = self.path(attempt).with_suffix(".partial")
        left = MOST_BYTES
        with contextlib.suppress(EngineError), partial.open("wb") as file:
            partial.chmod(0o600)
            pieces = manager.stream(container, follow=False)
            for data in _plain(pieces) if mask is None else _masked(pieces, mask):
                file.write(data[:left])
                left -= len(data)
                if left <= 0:
                    break
        partial.replace(self.path(attempt))

    def sweep(self, now: float | None = None) -> list[Path]:
        """Delete what is too old; and the oldest, while all together is too much. ``now``: seconds
        since the epoch."""
        if not self._place.is_dir():
            return []
        until = (time.time() if now is None else now) - self._seconds
        kept = [path for path in self._place.iterdir() if path.suffix in (_SUFFIX, ".partial")]
        seen = sorted(((path.stat(), path) for path in kept), key=lambda one: one[0].st_mtime)
        excess = sum(there.st_size for there, _ in seen) - self._most_in_all
        old = []
        for there, path in seen:
            if there.st_mtime < until or excess > 0:
                path.unlink(missing_ok=True)
                excess -= there.st_size
                old.append(path)
        return old


def _plain(pieces: Iterable[tuple[Stream, bytes]]) -> Iterator[bytes]:
    return (data for _, data in pieces)


def _masked(pieces: Iterable[tuple[Stream, bytes]], mask: Mask) -> Iterator[bytes]:
    """Line by line, since a secret may lie across two pieces."""
    buffers = {one: LineBuffer() for one in Stream}
    offsets = dict.fromkeys(Stream, 0)
    for stream, data in pieces:
        for line, cut in buffers[stream].feed(offsets[stream], data):
            yield mask.line(line, cut=bool(cut)) + b"\n"
        offsets[stream] += len(data)
    for buffer in buffers.values():
        for line, cut in buffer.flush():
            yield mask.line(line, cut=bool(cut)) + b"\n"
