"""Puts a job's events in order, once each: what both followers share. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from tasks.events import VERSION, Envelope, Truncated, decode, is_end


class Sequence:
    """Remembers what was given out. ``ended``: the last event was a job's end."""

    def __init__(self) -> None:
        self.last = 0
        self.ended = False

    def caught_up(self, texts: Iterable[str], seq: int) -> list[Envelope]:
        """From the stored history, read together with the record's ``seq``.

        What the capped tail no longer has is said by a `Truncated` event.
        """
        found = sorted((decode(text) for text in texts), key=lambda one: one.seq)
        out: list[Envelope] = []
        for envelope in found:
            if envelope.seq <= self.last:
                continue
            if envelope.seq > self.last + 1:
                out.append(_gap(envelope, self.last + 1, envelope.seq - 1))
            out.append(envelope)
            self.last = envelope.seq
        if found and seq > self.last:  # the newest events themselves were trimmed
            out.append(_gap(found[-1], self.last + 1, seq))
            self.last = seq
        self.ended = self.ended or any(is_end(one.event) for one in out)
        return out

    def live(self, message: str) -> list[Envelope] | None:
        """From one message of the channel; None if something before it is missing."""
        out: list[Envelope] = []
        for text in message.split("\n"):
            envelope = decode(text)
            if envelope.seq <= self.last:
                continue
            if envelope.seq != self.last + 1:
                self.last -= len(out)
                return None
            self.last = envelope.seq
            out.append(envelope)
        self.ended = self.ended or any(is_end(one.event) for one in out)
        return out


def _gap(near: Envelope, first: int, last: int) -> Envelope:
    return Envelope(
        v=VERSION,
        job_id=near.job_id,
        attempt=near.attempt,
        seq=last,
        ts=near.ts,
        node="",
        slot="",
        event=Truncated(from_seq=first, to_seq=last),
    )
