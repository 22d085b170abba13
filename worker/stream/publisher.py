"""Sends an attempt's events, on a thread of its own, from a bounded buffer.

While one script runs at Redis, the next batch gathers: a quiet job's events go at once, a loud
one's in batches. When Redis cannot keep up, progress gives way to newer progress and the oldest
log lines are dropped, both counted; a state event never is. Nothing waits for Redis but the
thread, so a job is never held up by it.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import redis

from tasks.errors import LeaseLost
from tasks.events import Event, Log, Progress, encode
from tasks.record import Lease, Records, tagged
from tasks.state import JobState
from worker.crew import Crew, one_off

log = logging.getLogger(__name__)

_BATCH: Final = 200
_HIGH: Final = 1_000
"""Entries above which progress and log are coalesced."""
_MOST_LOG_LINES: Final = 1_000
"""Lines that one coalesced log entry keeps."""
_AGAIN_AT_MOST_S: Final = 2.0


@dataclass(kw_only=True, slots=True)
class Stats:
    """Counts of progress events and log lines; offered = published + coalesced, once drained."""

    offered: int = 0
    published: int = 0
    coalesced: int = 0
    batches: int = 0
    errors: int = 0


@dataclass(slots=True)
class _Entry:
    event: Event
    state: JobState | None = None


class Publisher:
    """See the module's docstring. `state` and `offer` may come from any thread."""

    def __init__(
        self,
        records: Records,
        lease: Lease,
        *,
        on_lost: Callable[[], None] = lambda: None,
        crew: Crew = one_off,
    ) -> None:
        """``on_lost``: called once, from the thread, when the lease turns out to be lost.
        ``crew``: where the thread comes from."""
        self._records = records
        self._lease = lease
        self._on_lost = on_lost
        self._entries: deque[_Entry] = deque()
        self._progress: _Entry | None = None
        self._log: _Entry | None = None
        self._changed = threading.Condition()
        self._closing = False
        self._waiting = False
        self._batch = 0
        self._hurry = threading.Event()
        self.lost = False
        self.stats = Stats()
        self._join = crew(self._run, "publisher")

    def state(
        self, event: Event, *, state: JobState | None = None, more_soon: bool = False
    ) -> None:
        """Publish a state event, and go to ``state`` with it. Never dropped while the lease is
        held.

        ``more_soon``: another one follows within milliseconds: it may go with that.
        """
        with self._changed:
            if not self.lost:
                self._append(_Entry(event, state), wake=not more_soon)

    def offer(self, event: Event) -> None:
        """Publish progress or log, unless newer ones must take its place. Other events as
        `state`."""
        with self._changed:
            self.stats.offered += _weight(event)
            if self.lost:
                self.stats.coalesced += _weight(event)
            elif len(self._entries) < _HIGH or not self._coalesce(event):
                self._append(_Entry(event))

    def close(self) -> list[str]:
        """Stop, and return what was not sent yet, for `Records.finish` to say with the end.

        Waits for the batch that is under way, as long as Redis takes to answer.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._join()
        left = [] if self.lost else [tagged(entry.event) for entry in self._entries]
        for entry in self._entries:
            self._count(entry)
        self._entries.clear()
        return left

    def _append(self, entry: _Entry, *, wake: bool = True) -> None:
        self._entries.append(entry)
        if isinstance(entry.event, Progress):
            self._progress = entry
        elif isinstance(entry.event, Log):
            self._log = entry
        self._waiting = self._waiting or wake
        if wake:
            self._changed.notify()

    def _coalesce(self, event: Event) -> bool:
        """Merge it into the newest waiting one of its kind; False if there is none."""
        if isinstance(event, Progress) and self._progress is not None:
            old = self._progress.event
            if isinstance(old, Progress):
                self.stats.coalesced += 1
                self._progress.event = replace(event, coalesced=old.coalesced + 1)
                return True
        if isinstance(event, Log) and self._log is not None:
            old_log = self._log.event
            if isinstance(old_log, Log) and old_log.stream == event.stream:
                lines = (*old_log.lines, *event.lines)
                dropped = max(0, len(lines) - _MOST_LOG_LINES)
                self.stats.coalesced += dropped
                self._log.event = replace(
                    old_log, lines=lines[dropped:], dropped=old_log.dropped + dropped
                )
                return True
        return False

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closing:
                    self._changed.wait()
                if self._closing:
                    return
                batch = self._take()
                self._waiting = bool(self._entries)
            if not self._send(batch):
                return

    def _take(self) -> list[_Entry]:
        """The next batch: it ends with the first entry that changes the state."""
        batch: list[_Entry] = []
        while self._entries and len(batch) < _BATCH:
            entry = self._entries.popleft()
            batch.append(entry)
            if entry is self._progress:
                self._progress = None
            if entry is self._log:
                self._log = None
            if entry.state is not None:
                break
        return batch

    def _send(self, batch: list[_Entry]) -> bool:
        """Send until Redis has answered. False once the lease is lost."""
        self._batch += 1
        bodies = [tagged(entry.event) for entry in batch]
        state, wait = batch[-1].state, 0.05
        while True:
            try:
                self._records.publish(
                    self._lease,
                    bodies,
                    state=state,
                    snapshot=_snapshot(batch),
                    batch=self._batch,
                )
            except LeaseLost:
                self._lose()
                return False
            except ValueError as error:  # the record went elsewhere meanwhile; the events stand
                log.warning("publisher.state job=%s error=%s", self._lease.job_id, error)
                state = None
            except redis.RedisError as error:
                self.stats.errors += 1
                log.warning("publisher.unsent job=%s error=%s", self._lease.job_id, error)
                self._hurry.wait(wait)
                wait = min(wait * 2, _AGAIN_AT_MOST_S)
            else:
                self.stats.batches += 1
                for entry in batch:
                    self._count(entry)
                return True

    def _count(self, entry: _Entry) -> None:
        if isinstance(entry.event, Progress | Log):
            self.stats.published += _weight(entry.event)

    def _lose(self) -> None:
        with self._changed:
            self.lost = True
            self._entries.clear()
        self._on_lost()


def _weight(event: Event) -> int:
    """How many printed lines an event stands for, of progress and log."""
    return len(event.lines) if isinstance(event, Log) else int(isinstance(event, Progress))


def _snapshot(batch: list[_Entry]) -> dict[str, str]:
    for entry in reversed(batch):
        if isinstance(entry.event, Progress):
            return {"progress": encode(entry.event)}
    return {}
