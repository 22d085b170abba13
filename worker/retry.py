"""When a job is tried again. Pure."""

from __future__ import annotations

from typing import Final

_FIRST_MS: Final = 1_000
_MOST_MS: Final = 60_000


def backoff_ms(attempt: int) -> int:
    """How long the job waits after its ``attempt``-th attempt: 1 s, doubled each time, to 60 s."""
    return min(_FIRST_MS << min(max(attempt, 1) - 1, 16), _MOST_MS)
