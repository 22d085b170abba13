"""Events that wait to be sent: bounded, whatever a job prints and however long Redis is away.

What only the node can say is always kept. What the job can print gives way once too much of it
waits: progress and checkpoints to newer ones, log lines to later ones of the same stream. What is
dropped is counted, in the event that stands for it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import Final

from tasks.events import Checkpoint, Event, Log, Progress, is_state
from tasks.state import JobState
from worker.stream.decoder import kind_of

BATCH: Final = 200
"""Events in one batch …"""
BATCH_CHARS: Final = 256 * 1024
"""… and their characters: Redis does nothing else while it takes them in."""
HIGH: Final = 1_000
"""Waiting events from which on the job's own are coalesced …"""
HIGH_CHARS: Final = 1024 * 1024
"""… and their characters."""
LOG_LINES: Final = 1_000
"""Lines that one coalesced log event keeps …"""
LOG_CHARS: Final = 256 * 1024
"""… and their characters."""
_PER_LINE: Final = 64
_PER_EVENT: Final = 512


@dataclass(kw_only=True, slots=True)
class Stats:
    """Counts of what the job printed: progress, checkpoints, log lines.

    ``offered`` = ``published`` + ``coalesced``, once all is sent.
    """

    offered: int = 0
    published: int = 0
    coalesced: int = 0
    batches: int = 0
    errors: int = 0


@dataclass(slots=True, eq=False)
class Entry:
    """A waiting event, and the state that the job goes to with it."""

    event: Event
    state: JobState | None = None
    merged: int = 0
    """How many of the job's own gave way to this one, beside those that it counts itself."""
    lines: deque[str] | None = None
    """Of a log event that others joined: all lines. A new event for each would cost as much as
    all the lines before it."""
    chars: int = -1
    """About how many characters it holds; -1: not counted yet."""
    start: int = 0
    """Where in its stream begins what it stands for …"""
    end: int = 0
    """… and ends; 0: it is of no stream."""

    def said(self) -> Event:
        """The event, with what joined it and the count of those that it stands for."""
        event, merged = self.event, self.merged
        if self.lines is not None and isinstance(event, Log):
            return replace(event, lines=tuple(self.lines), dropped=event.dropped + merged)
        if merged and isinstance(event, Progress | Checkpoint):
            return replace(event, coalesced=event.coalesced + merged)
        return event

    @property
    def size(self) -> int:
        """About how many characters it holds."""
        if self.chars < 0:
            self.chars = size(self.event)
        return self.chars

    def join(self, more: Log) -> int:
        """Add the lines of another log event; returns how many of the oldest had to go."""
        if self.lines is None:
            assert isinstance(self.event, Log)  # noqa: S101 - entries are found by their kind
            self.lines = deque(self.event.lines)
        self.chars = self.size + size(more) - _PER_EVENT
        self.lines += more.lines
        gone = 0
        while len(self.lines) > LOG_LINES or self.chars > LOG_CHARS:
            self.chars -= len(self.lines.popleft()) + _PER_LINE
            gone += 1
        self.merged += gone + more.dropped
        return gone

    def has_room(self, event: Event) -> bool:
        """Whether nothing that people would read is dropped if the other one joins it."""
        if isinstance(event, Log) and isinstance(self.event, Log):
            count = len(self.event.lines if self.lines is None else self.lines)
            fits = count + len(event.lines) <= LOG_LINES
            return fits and self.size + size(event) <= LOG_CHARS
        return True


class Buffer:
    """See the module's docstring. Its owner locks."""

    def __init__(self, stats: Stats) -> None:
        self._entries: deque[Entry] = deque()
        self._newest: dict[str, Entry] = {}
        self._stats = stats
        self.chars = 0
        """About how many characters wait."""

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, entry: Entry) -> None:
        """Keep it for sure."""
        self._entries.append(entry)
        self.chars += entry.size
        kind = _kind(entry.event)
        if kind:
            self._newest[kind] = entry

    def offer(self, event: Event, *, loud: bool = False, start: int = 0, end: int = 0) -> None:
        """Keep it, or let it take the place of the newest of its kind.

        ``loud``: so much comes that it shall take it at once; else only once too much waits.
        ``start``, ``end``: the bytes of its stream that it comes from.
        """
        self._stats.offered += weight(event)
        waiting = self._newest.get(_kind(event))
        full = len(self._entries) >= HIGH or self.chars >= HIGH_CHARS
        if waiting is None or not (full or (loud and waiting.has_room(event))):
            self.put(Entry(event, start=start, end=end))
            return
        waiting.end = end
        if isinstance(event, Log):
            before = waiting.size
            self._stats.coalesced += waiting.join(event)
            self.chars += waiting.size - before
        else:
            before, waiting.chars = waiting.size, size(event)
            self.chars += waiting.chars - before
            self._stats.coalesced += 1
            waiting.event = event  # the count is put in once, when it is sent
            waiting.merged += 1

    def take(self) -> list[Entry]:
        """The next batch, at least one; it ends with the first entry that changes the state."""
        batch: list[Entry] = []
        chars = 0
        while self._entries and len(batch) < BATCH:
            entry = self._entries[0]
            chars += entry.size
            if batch and chars > BATCH_CHARS:
                break
            batch.append(self._pop())
            if entry.state is not None:
                break
        return batch

    def floors(self) -> dict[str, int]:
        """By stream: where begins the first of what still waits."""
        found: dict[str, int] = {}
        for entry in self._entries:
            if entry.end:
                stream = stream_of(entry.event)
                found[stream] = min(entry.start, found.get(stream, entry.start))
        return found

    def take_all(self) -> list[Entry]:
        """All that is left."""
        return [self._pop() for _ in range(len(self._entries))]

    def _pop(self) -> Entry:
        entry = self._entries.popleft()
        self.chars -= entry.size
        entry.event, entry.lines, entry.merged = entry.said(), None, 0
        kind = _kind(entry.event)
        if self._newest.get(kind) is entry:
            del self._newest[kind]
        return entry


def weight(event: Event) -> int:
    """How many things that the job printed an event stands for."""
    if type(event) is Progress:  # the one that comes by the hundred thousand
        return 1
    return len(event.lines) if isinstance(event, Log) else int(not is_state(event))


def size(event: Event) -> int:
    """About how many characters an event holds."""
    if type(event) is Progress:
        return _PER_EVENT + len(event.line) + _PER_LINE * len(event.metrics)
    match event:
        case Log():
            return _PER_EVENT + sum(len(line) + _PER_LINE for line in event.lines)
        case Checkpoint():
            return _PER_EVENT + len(event.path) + len(event.sha256)
        case _:
            return _PER_EVENT


def _kind(event: Event) -> str:
    """What may take its place; '' for nothing."""
    return kind_of(event) or ("" if is_state(event) else event.type)


def stream_of(event: Event) -> str:
    """Where it was printed: all but log lines of stderr comes on stdout."""
    return event.stream if isinstance(event, Log) else "stdout"
