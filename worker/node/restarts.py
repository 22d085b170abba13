"""When a slot worker that ended is started again: a pure decision."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class RestartPolicy:
    """Exponential back-off. Seconds."""

    first: float = 0.5
    """Before the first restart; each one after it waits twice as long."""
    most: float = 60.0
    steady: float = 30.0
    """A worker that was up for so long starts the count anew."""
    crash_loop: int = 3
    """So many short lives in a row are a crash loop."""

    def failures(self, before: int, uptime: float) -> int:
        """Short lives in a row, after one of ``uptime`` seconds."""
        return 1 if uptime >= self.steady else before + 1

    def delay(self, failures: int) -> float:
        """Seconds to wait before the next start."""
        return float(min(self.most, self.first * 2 ** min(failures - 1, 30)))

    def crash_looping(self, failures: int) -> bool:
        """Whether this has to be reported as a crash loop."""
        return failures >= self.crash_loop
