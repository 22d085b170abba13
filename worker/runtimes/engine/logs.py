"""What a container wrote, kept for people after it is gone: bounded, and not for ever."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Final

from worker.runtimes.engine.errors import EngineError
from worker.runtimes.engine.manager import ContainerManager

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

    def save(self, manager: ContainerManager, container: str, attempt: str) -> None:
        """Keep what the stopped ``container`` wrote. What cannot be had is no error."""
        if not self._seconds:
            return
        self._place.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = self.path(attempt).with_suffix(".partial")
        left = MOST_BYTES
        with contextlib.suppress(EngineError), partial.open("wb") as file:
            partial.chmod(0o600)
            for _, data in manager.stream(container, follow=False):
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
