"""A runtime without processes, which can be made to fail in every way that a real one does."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Sequence

from tasks.errors import KeeperError, RuntimeUnavailable
from worker.keeper.protocol import CHUNK_BYTES
from worker.plan import AttemptId, ExitStatus, LaunchPlan, StopCause
from worker.runtimes.base import Beside, Capabilities, Chunk, Handle, Status, Stream
from worker.runtimes.fake_attempt import FakeAttempt
from worker.runtimes.fake_script import Script

Scripts = Callable[[LaunchPlan], Script]


class FakeHost:
    """What outlives a supervisor: the attempts. Runtimes that share one are successors."""

    def __init__(self) -> None:
        self.attempts: dict[AttemptId, FakeAttempt] = {}


class FakeRuntime:
    """Follows, for each plan, the script that ``scripts`` gives."""

    def __init__(
        self,
        scripts: Scripts,
        *,
        host: FakeHost | None = None,
        abandon_after: float = 60.0,
        pause: bool = True,
        unavailable: str = "",
    ) -> None:
        """``pause`` False: a passed deadline stops. ``unavailable``: why nothing can be started."""
        self._scripts = scripts
        self.host = host or FakeHost()
        self._abandon_after = abandon_after
        self._pause = pause
        self.unavailable = unavailable
        """May be changed at any time."""

    def capabilities(self) -> Capabilities:
        return Capabilities(
            name="fake",
            available=not self.unavailable,
            reason=self.unavailable,
            pause=self._pause,
        )

    def prepare(self, image: str | None, progress: Callable[[str], None]) -> None:
        if self.unavailable:
            raise RuntimeUnavailable(self.unavailable)
        progress(f"{image or 'nothing'} is ready")

    def start(self, plan: LaunchPlan, deadline: float) -> Handle:
        script = self._scripts(plan)
        error = self.unavailable or script.start_error
        if error:
            raise RuntimeUnavailable(f"{plan.attempt} was not started: {error}")
        if plan.attempt in self.host.attempts:
            raise RuntimeUnavailable(f"{plan.attempt} was not started: it is running already")
        for directory in (plan.state, plan.scratch, plan.checkpoints, plan.output):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        attempt = FakeAttempt(
            plan,
            script,
            deadline=deadline,
            abandon_after=self._abandon_after,
            pause=self._pause,
        )
        self.host.attempts[plan.attempt] = attempt
        return FakeHandle(self.host, attempt)

    def recover(self, slot: str | None = None) -> list[Handle]:
        return [
            FakeHandle(self.host, attempt)
            for attempt in list(self.host.attempts.values())
            if not attempt.removed and slot in (None, attempt.plan.grant.slot)
        ]

    def close(self) -> None:
        """Nothing is held."""


class FakeHandle:
    """See `worker.runtimes.base.Handle`."""

    def __init__(self, host: FakeHost, attempt: FakeAttempt) -> None:
        self._host = host
        self._attempt = attempt
        self._detached = False
        with attempt.changed:
            attempt.attach(self)

    @property
    def attempt(self) -> AttemptId:
        return self._attempt.plan.attempt

    def read(self, timeout: float) -> Chunk | ExitStatus | None:
        """Raises `KeeperError` when this handle no longer counts."""
        until = time.monotonic() + max(0.0, timeout)
        with self._attempt.changed:
            while True:
                item = self._next()
                left = until - time.monotonic()
                if item is not None or left <= 0:
                    return item
                self._attempt.changed.wait(left)

    def ack(self, stream: Stream, offset: int) -> None:
        with self._attempt.changed:
            self._attempt.spools[stream].ack(offset)
            self._attempt.changed.notify_all()

    def beat(self, deadline: float) -> None:
        self._do(lambda attempt: attempt.beat(deadline))

    def stop(self, grace: float) -> None:
        self._do(lambda attempt: attempt.stop(grace))

    def fence(self) -> None:
        self._do(lambda attempt: attempt.kill(StopCause.FENCED))

    def pause(self) -> None:
        self._do(lambda attempt: attempt.pause("user"))

    def resume(self) -> None:
        self._do(lambda attempt: attempt.resume("user"))

    def signal(self, number: int) -> None:
        checked = signal.Signals(number)
        self._do(lambda attempt: attempt.signal(checked))

    def exec(self, argv: Sequence[str]) -> Beside:
        raise KeeperError("fake attempts have no exec (Capabilities.exec is False)")

    def status(self) -> Status:
        with self._attempt.changed:
            return self._attempt.status

    def detach(self) -> None:
        with self._attempt.changed:
            if not self._detached:
                self._detached = True
                if self._attempt.supervisor is self:
                    self._attempt.lose()
                self._attempt.changed.notify_all()

    def remove(self) -> None:
        plan = self._attempt.plan
        if self._host.attempts.get(plan.attempt) is not self._attempt:
            return
        if self._detached:
            raise KeeperError(f"{self.attempt}: this handle was detached; recover() finds it again")
        with self._attempt.changed:
            self._attempt.remove()
        del self._host.attempts[plan.attempt]
        for directory in (plan.state, plan.scratch):
            shutil.rmtree(directory, ignore_errors=True)

    def _do(self, verb: Callable[[FakeAttempt], None]) -> None:
        with self._attempt.changed:
            if not self._detached and self._attempt.exit is not None:
                return
            self._require()
            verb(self._attempt)

    def _next(self) -> Chunk | ExitStatus | None:
        for stream, spool in self._attempt.spools.items():
            if spool.sent < spool.end and self._attempt.supervisor is self:
                data = spool.next()[:CHUNK_BYTES]
                chunk = Chunk(stream=stream, offset=spool.sent, data=data)
                spool.sent += len(data)
                return chunk
        if self._attempt.exit is not None and not self._detached:
            return self._attempt.exit
        self._require()
        return None

    def _require(self) -> None:
        if self._detached:
            raise KeeperError(f"{self.attempt}: this handle was detached")
        if self._attempt.lost or self._attempt.removed:
            raise KeeperError(f"{self.attempt}: the keeper is gone")
        if self._attempt.supervisor is not self:
            raise KeeperError(f"{self.attempt}: another supervisor has taken over")
