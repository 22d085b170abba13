"""Puts a job's events in order, once each: what both followers share. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from tasks.errors import NotSigned, UnknownJob, Unproven
from tasks.events import VERSION, Envelope, Truncated, decode, is_end

if TYPE_CHECKING:
    from tasks.proving import Checker


_REMEMBERED: Final = 4096


class Sequence:
    """Remembers what was given out. ``ended``: the last event was a job's end."""

    def __init__(self, job_id: str, checker: Checker | None = None) -> None:
        """``checker``: what no trusted node has signed is an error."""
        self._job_id = job_id
        self._checker = checker
        self._read = decode if checker is None else checker.read
        self.last = 0
        self.ended = False
        self._given: dict[int, float] = {}
        """When the last of those that were given out happened, by their numbers."""

    def caught_up(self, texts: Iterable[str], seq: int, *, over: bool = False) -> list[Envelope]:
        """From the stored history, read together with the record's ``seq``.

        What the capped tail no longer has is said by a `Truncated` event; so is what is no event.
        ``over``: by the record the job has ended.

        Raises Unproven, with a checker; also for a job that is over and has no end there.
        """
        found = sorted(self._readable(texts), key=lambda one: one.seq)
        out: list[Envelope] = []
        for envelope in found:
            if envelope.seq <= self.last:
                continue
            if envelope.seq > self.last + 1:
                out.append(_gap(envelope, self.last + 1, envelope.seq - 1, self._job_id))
            out.append(envelope)
            self.last = envelope.seq
        if seq > self.last:  # the newest events themselves are not stored any more
            out.append(_gap(found[-1] if found else None, self.last + 1, seq, self._job_id))
            self.last = seq
        out = self._checked(out)
        self._remember(out)
        if over and not self.ended and self._checker is not None:  # it would be waited for in vain
            raise NotSigned(
                f"job {self._job_id}: by its record it has ended, but its end is not kept among "
                "its events: somebody has taken it out, or written into the record"
            )
        return out

    def live(self, message: str) -> list[Envelope] | None:
        """From one message of the channel; None if it cannot be told by itself: something before
        it is missing, or it is no event (anybody may publish). What is stored decides then."""
        out: list[Envelope] = []
        for text in message.split("\n"):
            try:
                envelope = self._read(text)
            except ValueError:
                self.last -= len(out)
                return None
            if envelope.seq <= self.last:
                continue
            if envelope.seq != self.last + 1:
                self.last -= len(out)
                return None
            self.last = envelope.seq
            out.append(envelope)
        try:
            # what no node says takes no number here: its event would then be skipped
            proven = self._checked(out, all_signed=True)
        except Unproven:  # anybody may publish
            self.last -= len(out)
            return None
        self._remember(proven)
        return proven

    def set_back(self, seq: int, *, over: bool) -> bool:
        """Whether by the record, once `caught_up` with it, other events happened than were given
        out: after a failover, or a loss of data, that took some of them. All are read again then.

        Raises NotSigned, with a checker: what may be told twice proves nothing.
        """
        if self.ended or not (seq < self.last or over):
            return False
        if self._checker is not None:
            raise NotSigned(
                f"job {self._job_id}: its record says less than was signed before: Redis has lost "
                "some of it, or somebody has set it back; follow the job again from its start"
            )
        return True

    def told_anew(self, texts: Iterable[str], seq: int, *, over: bool) -> list[Envelope]:
        """After `set_back`, from the whole stored history: what was not given out, after a
        `Truncated` over the numbers that come a second time.

        Raises UnknownJob: the job has ended, and nothing says how.
        """
        stored = sorted(self._readable(texts), key=lambda one: one.seq)
        fresh = [one for one in stored if not self._was_given(one)]
        first = fresh[0].seq if fresh else seq + 1
        out = list[Envelope]()
        if first <= self.last:
            out.append(_gap(fresh[0] if fresh else None, first, self.last, self._job_id))
        out += fresh
        self.last = seq
        self._given = {number: ts for number, ts in self._given.items() if number < first}
        self._remember(fresh)
        if over and not self.ended:
            raise UnknownJob(
                f"job {self._job_id!r} has ended, but its end is not kept among its events"
            )
        return out

    def _was_given(self, one: Envelope) -> bool:
        if one.seq in self._given or not self._given:
            return self._given.get(one.seq) == one.ts
        oldest = next(iter(self._given))
        return one.seq < oldest and one.ts <= self._given[oldest]

    def _remember(self, given: Iterable[Envelope]) -> None:
        for one in given:
            if not isinstance(one.event, Truncated):
                self._given[one.seq] = one.ts
                self.ended = self.ended or is_end(one.event)
        while len(self._given) > _REMEMBERED:
            del self._given[next(iter(self._given))]

    def prove(self, found: Iterable[Envelope], *held: str | None) -> None:
        """See that an end in ``found`` is of the configuration that was submitted, where a checker
        knows that. ``held``: see `Checker.check_end`. Raises Unproven."""
        for one in found:
            if self._checker is not None and is_end(one.event):
                self._checker.check_end(one, *held)

    def _checked(self, found: list[Envelope], *, all_signed: bool = False) -> list[Envelope]:
        if self._checker is None:
            return found
        return self._checker.check(found, all_signed=all_signed)

    def _readable(self, texts: Iterable[str]) -> Iterator[Envelope]:
        for text in texts:
            with suppress(ValueError):  # somebody else has written it
                yield self._read(text)


def _gap(near: Envelope | None, first: int, last: int, job_id: str) -> Envelope:
    return Envelope(
        v=VERSION,
        job_id=job_id,
        attempt=near.attempt if near else 0,
        seq=last,
        ts=near.ts if near else 0.0,
        node="",
        slot="",
        event=Truncated(from_seq=first, to_seq=last),
    )
