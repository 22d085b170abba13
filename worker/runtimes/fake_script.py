"""What a fake attempt does: steps, and the faults it can be made to show."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from worker.plan import StopCause
from worker.runtimes.base import Stream


class Gate:
    """Something that a script waits for and a test opens: no fake attempt ever sleeps."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._open = False
        self._listeners: list[Callable[[], None]] = []

    @property
    def is_open(self) -> bool:
        return self._open

    def open(self) -> None:
        with self._mutex:
            self._open = True
            listeners = list(self._listeners)
        for listener in listeners:
            listener()

    def on_open(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` when the gate is opened."""
        with self._mutex:
            self._listeners.append(listener)


@dataclass(frozen=True, kw_only=True, slots=True)
class Write:
    """Write ``data`` ``times`` times over; blocks while the spool is full, as a pipe does."""

    data: bytes
    times: int = 1
    stream: Stream = Stream.STDOUT


@dataclass(frozen=True, kw_only=True, slots=True)
class Await:
    """Go on when the gate is open; with a gate that nobody opens: hang."""

    gate: Gate = field(default_factory=Gate)


@dataclass(frozen=True, kw_only=True, slots=True)
class Exit:
    """End with an exit code."""

    code: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Die:
    """End by a signal; ``cause`` and ``oom`` as a limit that was broken would leave them."""

    signal: int
    cause: StopCause | None = None
    oom: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Disconnect:
    """The keeper vanishes with everything: nobody will know how the attempt ended."""


Step = Write | Await | Exit | Die | Disconnect


@dataclass(frozen=True, kw_only=True, slots=True)
class Script:
    """One attempt. Without an `Exit` at its end it exits 0."""

    steps: tuple[Step, ...] = ()
    start_error: str = ""
    """`start` raises RuntimeUnavailable with it."""
    exec_error: str = ""
    """The program cannot be executed: `ExitStatus.error`."""
    on_signal: Mapping[int, bytes] = field(default_factory=dict)
    """Signals that do not end it, and what it prints on them; {SIGTERM: b""} ignores a stop."""
