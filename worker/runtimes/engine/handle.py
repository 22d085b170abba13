"""One attempt in a container: its keeper's verbs, and the engine's."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from tasks.errors import KeeperError
from worker.keeper import containers, secret_files
from worker.plan import AttemptId, ExitStatus
from worker.runtimes.base import Beside, Chunk, Status, Stream
from worker.runtimes.engine.errors import EngineError
from worker.runtimes.engine.logs import KeptLogs
from worker.runtimes.engine.manager import ContainerManager
from worker.runtimes.engine.report import SandboxReport
from worker.runtimes.native import NativeHandle
from worker.stream.masking import Mask


class EngineHandle:
    """See `worker.runtimes.base.Handle`; and `NativeHandle`, whose keeper's side is the same."""

    def __init__(
        self,
        kept: NativeHandle,
        *,
        state: Path,
        manager: ContainerManager,
        logs: KeptLogs,
        report: SandboxReport | None,
    ) -> None:
        self._kept = kept
        self._state = state
        self._manager = manager
        self._logs = logs
        self.report = report
        """What was seen of the sandbox; None of an attempt whose report was lost."""

    @property
    def attempt(self) -> AttemptId:
        return self._kept.attempt

    def read(self, timeout: float) -> Chunk | ExitStatus | None:
        return self._kept.read(timeout)

    def ack(self, stream: Stream, offset: int) -> None:
        self._kept.ack(stream, offset)

    def beat(self, deadline: float) -> None:
        self._kept.beat(deadline)

    def stop(self, grace: float) -> None:
        self._kept.stop(grace)

    def fence(self) -> None:
        self._kept.fence()

    def pause(self) -> None:
        self._kept.pause()

    def resume(self) -> None:
        self._kept.resume()

    def signal(self, number: int) -> None:
        self._kept.signal(number)

    def exec(self, argv: Sequence[str]) -> Beside:
        noted = containers.read(self._state)
        if noted is None:
            raise KeeperError(f"{self.attempt}: there is no container of it any more")
        return self._manager.exec(noted.name, argv)

    def status(self) -> Status:
        return self._kept.status()

    def detach(self) -> None:
        self._kept.detach()

    def remove(self) -> None:
        """Its logs are kept first, if they are to be; then nothing of it is left."""
        noted = containers.read(self._state)
        if noted is not None and self._kept.status() is Status.EXITED:
            with contextlib.suppress(EngineError, OSError):
                values = secret_files.read(self._state).values()
                mask = Mask(values) if values else None
                self._logs.save(self._manager, noted.name, str(self.attempt), mask)
        self._kept.remove()
