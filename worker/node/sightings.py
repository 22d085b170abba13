"""What the cluster's reaper sees that may be a fault, and since when. Pure.

A message is taken for lost only if it stays away for a while. An agent that dies meanwhile must not
make the next one begin to count anew, so what was seen is kept in Redis, as ages: monotonic clocks
differ between hosts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

_AT_ONCE_S = 2.0
"""Most messages are claimed sooner: they are not worth to be told of."""


@dataclass(kw_only=True, slots=True)
class Sightings:
    """Times are those of time.monotonic() here."""

    short_since: float | None = None
    """Some queue has fewer messages than jobs."""
    delivered: dict[str, float] = field(default_factory=dict)
    """By delivery tag: a worker has the message, and has not claimed its job."""

    def told(self, now: float, clock_ms: int) -> str:
        """For the next leader; '' if there is nothing to tell. ``clock_ms``: Redis's clock."""
        old = {tag: now - since for tag, since in self.delivered.items()}
        old = {tag: round(age, 3) for tag, age in old.items() if age >= _AT_ONCE_S}
        if self.short_since is None and not old:
            return ""
        short = None if self.short_since is None else round(now - self.short_since, 3)
        return json.dumps({"at": clock_ms, "short": short, "delivered": old})

    @classmethod
    def heard(cls, text: str | None, now: float, clock_ms: int) -> Sightings:
        """Of an earlier leader's; nothing seen where that cannot be read."""
        try:
            said = json.loads(text or "{}")
            then = now - max(0, clock_ms - int(said["at"])) / 1000
            short = said["short"]
            return cls(
                short_since=None if short is None else then - float(short),
                delivered={str(tag): then - float(age) for tag, age in said["delivered"].items()},
            )
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            return cls()
