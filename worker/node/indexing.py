"""Sees that every job is in the index of its state and user, whichever version moved it there.

The scripts of this version keep the index; jobs from before it, and those that a node of an earlier
version moves while both run, are not in it. So whoever reaps goes through all jobs, a few at each
round, and again every hour.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tasks.record import Records
from tasks.state import JobState

AGAIN_S: Final = 3600.0
_HOLDS_S: Final = 24 * 3600
"""Beyond which the index is not believed, if nobody of this version reaps."""


class Indexing:
    """Of one leader's term."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._pass: Iterator[None] | None = None
        self._next = 0.0

    def step(self, now: float) -> None:
        """One part, if it is time. ``now``: time.monotonic(). Raises redis.RedisError."""
        if self._pass is None:
            if now < self._next:
                return
            self._pass = self._parts()
        try:
            done = next(self._pass, "done") == "done"
        except BaseException:
            self._pass = None  # the next round begins anew
            raise
        if done:
            self._pass, self._next = None, now + AGAIN_S
            self._done()

    def whole(self) -> None:
        """All of it, at once. Raises redis.RedisError."""
        for _ in self._parts():
            pass
        self._done()

    def _done(self) -> None:
        self._records.client.set(self._records.keys.indexed, 1, ex=_HOLDS_S)

    def _parts(self) -> Iterator[None]:
        for state in JobState:
            cursor = self._records.upkeep.index(state, "0")
            while cursor != "0":
                yield
                cursor = self._records.upkeep.index(state, cursor)
