"""When something of an attempt is due. Pure: times go in, decisions come out."""

from __future__ import annotations

import math


class Timers:
    """The clocks of one attempt, in seconds of ``time.monotonic()``."""

    __slots__ = ("_abandon_after", "_connected", "_contact", "deadline", "stop_at")

    def __init__(self, *, deadline: float, abandon_after: float, now: float) -> None:
        self.deadline = deadline
        self.stop_at = math.inf
        """When the grace of a stop is over."""
        self._abandon_after = abandon_after
        self._connected = True
        self._contact = now

    def beat(self, deadline: float, now: float) -> None:
        self.deadline = deadline
        self._contact = now

    def attached(self) -> None:
        self._connected = True

    def lost(self, now: float) -> None:
        """The supervisor's connection ended."""
        if self._connected:
            self._connected = False
            self._contact = max(self._contact, now)

    def ended(self, now: float) -> None:
        """The attempt ended: whoever comes late still has the whole time to ask how."""
        self._contact = max(self._contact, now)

    def expired(self, now: float) -> bool:
        """The lease may be somebody else's by now."""
        return now >= self.deadline

    def grace_over(self, now: float) -> bool:
        return now >= self.stop_at

    def abandoned(self, now: float) -> bool:
        """Nobody is attached, and nobody was for longer than a node may take to come back."""
        return now >= self._abandoned_at

    def next_due(self, now: float, *, running: bool) -> float:
        """The first moment after ``now`` at which one of these turns; ``inf`` if none will."""
        moments = [self._abandoned_at]
        if running:
            moments += [self.deadline, self.stop_at]
        return min((moment for moment in moments if moment > now), default=math.inf)

    @property
    def _abandoned_at(self) -> float:
        if self._connected:
            return math.inf
        # a supervisor that leaves for longer has said so by its last beat
        return max(self._contact + self._abandon_after, self.deadline)
