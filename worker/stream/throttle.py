"""At most one in so many seconds. Pure: the caller brings the time."""

from __future__ import annotations


class Throttle:
    """The first is let through, and then the first after each period."""

    def __init__(self, period: float) -> None:
        """``period``: seconds."""
        self._period = period
        self._next = float("-inf")

    def ready(self, now: float) -> bool:
        """Whether it may happen at ``now``; it counts as having happened then."""
        if now < self._next:
            return False
        self._next = now + self._period
        return True
