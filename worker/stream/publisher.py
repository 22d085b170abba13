"""Sends an attempt's events, on a thread of its own, from a bounded buffer.

While one script runs at Redis, the next batch gathers: a quiet job's events go at once, a loud
one's in batches. When Redis cannot keep up, what the job prints gives way (see
`worker.stream.buffer`); a state event never does. Nothing waits for Redis but the thread, so a
job is never held up by it.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import redis

from tasks.errors import LeaseLost, RecordGone
from tasks.events import Event, Progress, Started
from tasks.leases import NOT_RUN, Leases, tagged
from tasks.recorded import Lease
from tasks.seals import Sealer
from tasks.state import JobState
from worker.crew import Crew, one_off
from worker.stream.buffer import BATCH, Buffer, Entry, Stats, weight
from worker.stream.decoder import Said, kind_of
from worker.stream.reading import Reading

log = logging.getLogger(__name__)

_AGAIN_AT_MOST_S: Final = 2.0
_LOUD: Final = 50
"""Events offered while one batch is sent, from which on a job is loud."""
_PACE_S: Final = 0.02
"""How long a loud job's next batch gathers: fewer and larger ones cost everybody less."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Unsaid:
    """What was not sent when the attempt ended, to be said with its end: see `Leases.finish`."""

    events: tuple[str, ...] = ()
    snapshot: Mapping[str, str] = field(default_factory=dict)
    ran_ms: int = NOT_RUN
    batch: int = 0
    """The number of the last batch before them."""


class Publisher:
    """See the module's docstring. `state` and `offer` may come from any thread."""

    def __init__(
        self,
        leases: Leases,
        lease: Lease,
        *,
        on_lost: Callable[[], None] = lambda: None,
        crew: Crew = one_off,
        batch: int = 0,
        left: Reading | None = None,
        hold: bool = False,
        sealer: Sealer | None = None,
    ) -> None:
        """``on_lost``: called once, from the thread, when the lease turns out to be lost.
        ``crew``: where the thread comes from. ``batch``, ``left``: the number of the last batch
        that an earlier supervisor of the attempt sent, and what it left. ``hold``: send nothing
        before `begin`. ``sealer``: signs what is sent."""
        self._sealer = sealer
        self._leases = leases
        self._lease = lease
        self._on_lost = on_lost
        self._changed = threading.Condition()
        self._closing = False
        self._until = math.inf
        """When a batch is given up that Redis has not taken (time.monotonic())."""
        self._waiting = False
        self._offered = 0
        self._loud = False
        self._seen = {} if left is None else dict(left.seen)
        self._read: dict[str, int] = {} if left is None else dict(left.floors)
        self._memory: Mapping[str, Any] = {} if left is None else left.memory
        self.on_told: Callable[[Mapping[str, int]], None] = lambda floors: None
        """Called from the thread: before these offsets, by stream, all is published."""
        self.lost = False
        self.batch = batch
        """The number of the last batch that was sent, and is known to have come."""
        self.seq = 0
        """Of the last event that was published."""
        self.on_gone: Callable[[], None] = lambda: None
        """Called from the thread, again and again: there is no record to publish to, and until
        there is one, or `give_up`, it waits."""
        self.stats = Stats()
        self._buffer = Buffer(self.stats)
        self._crew = crew
        self._join: Callable[[], None] | None = None
        self._ran_at = 0.0
        if not hold:
            self.begin()

    def begin(self) -> None:
        """Send from now on. Safe to call again."""
        with self._changed:
            if self._join is None and not self._closing:
                self._join = self._crew(self._run, "publisher")

    def state(
        self, event: Event, *, state: JobState | None = None, more_soon: bool = False
    ) -> None:
        """Publish a state event, and go to ``state`` with it. Never dropped while the lease is
        held.

        ``more_soon``: another one follows within milliseconds: it may go with that.
        """
        with self._changed:
            if not self.lost:
                if state is JobState.RUNNING:
                    self._ran_at = time.monotonic()
                self._buffer.put(Entry(event, state))
                self._wake(not more_soon)

    def offer(self, event: Event) -> None:
        """Publish what the job printed, unless newer ones must take its place."""
        with self._changed:
            if not self.lost:
                self._buffer.offer(event, loud=self._loud)
                self._offered += 1
                self._wake(True)

    def read(
        self, said: Sequence[Said], stream: str, consumed: int, memory: Mapping[str, Any]
    ) -> None:
        """Publish what a job has printed, as `offer`.

        ``consumed``: of ``stream``, all before it has become events. ``memory``: what a successor
        must know of it beside them.
        """
        with self._changed:
            if self.lost:
                return
            for event, start, end in said:
                self._buffer.offer(event, loud=self._loud, start=start, end=end)
            self._offered += len(said)
            self._read[stream] = consumed
            self._memory = memory
            if said:
                self._wake(True)

    def leave(self, within: float) -> None:
        """Stop, and leave what was not sent to a successor, who finds it with the keeper; so also
        the batch that is under way, unless Redis has it ``within`` seconds."""
        self._until = time.monotonic() + within
        self.close()

    def close(self) -> Unsaid:
        """Stop, and return what was not sent yet.

        Waits for the batch that is under way, as long as Redis takes to answer.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._join is not None:
            self._join()
        left = self._buffer.take_all()
        self._count(left)
        bodies = [tagged(entry.said()) for entry in left]
        runs = any(entry.state is JobState.RUNNING for entry in left)
        return Unsaid(
            events=tuple(bodies),
            snapshot=_snapshot(left, bodies),
            ran_ms=round((time.monotonic() - self._ran_at) * 1000) if runs else NOT_RUN,
            batch=self.batch,
        )

    def _wake(self, wake: bool) -> None:
        self._waiting = self._waiting or wake
        if wake:
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closing:
                    self._changed.wait()
                self._loud, self._offered = self._offered >= _LOUD, 0
                if self._loud and len(self._buffer) < BATCH:
                    self._changed.wait_for(lambda: self._closing, _PACE_S)
                if self._closing:
                    return
                batch = self._buffer.take()
                left = self._reading(batch)
                self._waiting = bool(self._buffer)
            if not self._send(batch, left):
                return
            if left is not None:
                self.on_told(left.floors)

    def _reading(self, batch: list[Entry]) -> Reading | None:
        """What a successor shall know once this batch is sent; None if no more than before."""
        printed = [entry for entry in batch if entry.end]
        if not printed:
            return None
        for entry in printed:
            self._seen[kind_of(entry.event)] = entry.end
        floors = {**self._read, **self._buffer.floors()}
        return Reading(seen=dict(self._seen), floors=floors, memory=self._memory)

    def _send(self, batch: list[Entry], left: Reading | None) -> bool:
        """Send until Redis has answered. False once the lease is lost, or time is up."""
        number = self.batch + 1
        bodies = [tagged(entry.said()) for entry in batch]
        sealed = bodies if self._sealer is None else self._sealer.seal(bodies, number)
        state, wait = batch[-1].state, 0.05
        snapshot = _snapshot(batch, bodies)
        if left is not None:
            snapshot["reading"] = left.to_json()
        while True:
            try:
                self.seq = self._leases.publish(
                    self._lease,
                    sealed,
                    state=state,
                    snapshot=snapshot,
                    batch=number,
                )
            except RecordGone:
                if self.lost or time.monotonic() >= self._until:
                    return False
                self.on_gone()
                time.sleep(wait)
            except LeaseLost:
                self._lose()
                return False
            except ValueError as error:  # the record went elsewhere meanwhile; the events stand
                log.warning("publisher.state job=%s error=%s", self._lease.job_id, error)
                state = None
            except redis.RedisError as error:
                self.stats.errors += 1
                log.warning("publisher.unsent job=%s error=%s", self._lease.job_id, error)
                if time.monotonic() >= self._until:
                    return False
                time.sleep(wait)
                wait = min(wait * 2, _AGAIN_AT_MOST_S)
            else:
                self.batch = number
                self.stats.batches += 1
                self._count(batch)
                return True

    def _count(self, sent: list[Entry]) -> None:
        self.stats.published += sum(weight(entry.event) for entry in sent)

    def give_up(self) -> None:
        """The lease is lost: nothing more is sent."""
        with self._changed:
            self.lost = True
            self._buffer.take_all()

    def _lose(self) -> None:
        self.give_up()
        self._on_lost()


def _snapshot(batch: list[Entry], bodies: list[str]) -> dict[str, str]:
    """What the record shall show of these events: the last progress, and how the attempt runs."""
    found: dict[str, str] = {}
    for entry, body in zip(batch, bodies, strict=True):
        match entry.event:
            case Progress():
                found["progress"] = body[1:]
            case Started(image=image, image_id=image_id, digest=digest, sandbox=sandbox):
                found["sandbox"] = json.dumps(dict(sandbox)) if sandbox else ""
                if image:
                    found["image"] = digest or image_id
                    found["image_ref"] = image
    return found
