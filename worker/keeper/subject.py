"""What a keeper keeps: the same to it whether that is a child process or a container."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from worker.keeper import procfs
    from worker.keeper.protocol import Exit
    from worker.keeper.spool import Spool

    class Subject(Protocol):
        """One attempt's processes. Only `start` and `leave` may block."""

        spools: list[Spool]
        """stdout's and stderr's."""

        @property
        def all_dead(self) -> bool:
            """No process of it is left."""
            ...

        @property
        def pid(self) -> int:
            """Of the main process, on the host."""
            ...

        @property
        def tether(self) -> int:
            """See `worker.keeper.tether.Tether.number`; -1: it has none."""
            ...

        @property
        def ended(self) -> bool:
            """The main process has ended; others may be left."""
            ...

        @property
        def drained(self) -> bool:
            """Everything that was written is in the spools."""
            ...

        def start(self) -> None:
            """Raises OSError: nothing was started."""
            ...

        def look(self, now: float) -> None:
            """Learn what has happened, and carry on with what was asked for."""
            ...

        def next_due(self, now: float) -> float:
            """When `look` has something to do that no descriptor tells of."""
            ...

        def declare(self) -> None:
            """Say which descriptors are waited for now."""
            ...

        def members(self) -> list[procfs.Process]:
            """What the watchdog measures."""
            ...

        def pids(self) -> list[int]:
            """Of all its processes, also of those whose first thread has ended."""
            ...

        def signal(self, number: int) -> None:
            """Signal the main process, if it has not ended."""
            ...

        def beside(self, argv: list[str], fds: list[int]) -> None:
            """Run a command beside the job: see `protocol.BESIDE`. Closes ``fds`` in any case."""
            ...

        def kill(self) -> None:
            """Kill all of it; asked again until `all_dead`."""
            ...

        @property
        def pauses(self) -> bool:
            """It can be made to stand still."""
            ...

        def stop(self) -> bool:
            """Stop all of it. False: not yet, ask again soon."""
            ...

        def resume(self) -> None:
            """Let go on what `stop` stopped."""
            ...

        def unstoppable(self, now: float) -> bool:
            """It should stand still, and cannot be made to."""
            ...

        def drain(self) -> None:
            """All are dead: take what they left, as far as there is room."""
            ...

        def exit(self, cause: str | None) -> Exit:
            """How it ended. ``cause``: why the keeper ended it, if it did."""
            ...

        def leave(self) -> None:
            """The attempt is over: let go of everything but the leases."""
            ...
