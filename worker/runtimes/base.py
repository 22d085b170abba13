"""The runtime port: few verbs, the same for native, docker, podman and fake.

One contract suite (`tests/contract`) runs against all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from worker.plan import AttemptId, ExitStatus, LaunchPlan


class Stream(StrEnum):
    """Which of the job's two streams a chunk is from. They are never merged."""

    STDOUT = "stdout"
    STDERR = "stderr"


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """Bytes as they came: not lines, not complete UTF-8."""

    stream: Stream
    offset: int
    """Of the first byte, counted per stream from the attempt's start."""
    data: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Capabilities:
    """What a runtime can do on this host."""

    name: str
    """native, docker, podman or fake."""
    available: bool
    reason: str = ""
    """Why it is not available; '' if it is."""
    pause: bool = False
    exec: bool = False
    enforces: frozenset[str] = frozenset()
    """Which of memory, cpu, pids, shm, output are really enforced here."""


class Status(StrEnum):
    """What an attempt's processes are doing."""

    RUNNING = "running"
    PAUSED = "paused"
    EXITED = "exited"
    GONE = "gone"
    """Nothing of it is left, and how it ended is not known."""


class Beside(Protocol):
    """A command that runs beside an attempt's job. One thread uses it, and closes it."""

    def read(self, timeout: float) -> tuple[Stream, bytes] | int | None:
        """The next output; then the exit code (128 + the signal's number), again and again.

        None: nothing came yet, in ``timeout`` seconds at most.

        Raises:
            KeeperError: how it ended is not known, or it could not be executed.
        """
        ...

    def close(self) -> None:
        """End it if it runs, and let go of it. Safe to call twice."""
        ...


class Handle(Protocol):
    """One started attempt. All methods may be called from any thread, and again.

    Control verbs on an attempt that has ended do nothing.
    """

    @property
    def attempt(self) -> AttemptId: ...

    def read(self, timeout: float) -> Chunk | ExitStatus | None:
        """The next chunk; then, once all streams are drained, the exit status, again and again.

        None when nothing came within ``timeout`` seconds. Only one thread reads.
        """
        ...

    def ack(self, stream: Stream, offset: int) -> None:
        """Everything before ``offset`` is dealt with: it need not be kept for a successor."""
        ...

    def beat(self, deadline: float) -> None:
        """The lease is good until ``deadline`` (seconds of time.monotonic()).

        After it the keeper pauses the attempt (stops it, where there is no pause) and resumes it
        at the next beat.
        """
        ...

    def stop(self, grace: float) -> None:
        """SIGTERM now, SIGKILL to every descendant after ``grace`` seconds; does not wait."""
        ...

    def fence(self) -> None:
        """The lease is somebody else's: kill everything at once; does not wait."""
        ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def signal(self, number: int) -> None:
        """Send a signal to the main process."""
        ...

    def exec(self, argv: Sequence[str]) -> Beside:
        """Run a command beside the job: where it is, as who it is, within its limits.

        It ends with the attempt, and with this process.

        Raises:
            KeeperError: it cannot be started.
        """
        ...

    def status(self) -> Status: ...

    def detach(self) -> None:
        """Let go without ending it: a successor's recover() finds it."""
        ...

    def remove(self) -> None:
        """Kill what is left, release the grant, delete the attempt's state. Safe to call twice."""
        ...


class Runtime(Protocol):
    """Starts attempts and finds them again."""

    def capabilities(self) -> Capabilities: ...

    def prepare(self, image: str | None, progress: Callable[[str], None]) -> None:
        """Make sure that what ``start`` needs is here (pull an image).

        Raises:
            RuntimeUnavailable: it cannot be had now.
        """
        ...

    def start(self, plan: LaunchPlan, deadline: float) -> Handle:
        """Start an attempt under a keeper that holds ``plan.grant`` until ``remove``.

        ``deadline``: see `Handle.beat`. A program that cannot be executed is no error here: the
        handle's exit status says so.

        Raises:
            RuntimeUnavailable: nothing was started and nothing is left behind.
        """
        ...

    def recover(self, slot: str | None = None) -> list[Handle]:
        """Attempts that an earlier supervisor of this node left, running or ended.

        To attach to one takes it from whoever supervises it. ``slot``: those of this slot only;
        None: all, for a node without supervisors.
        """
        ...

    def close(self) -> None:
        """Let go of what this object holds; attempts that run go on."""
        ...
