"""One attempt of the fake runtime: a thread that follows its script, and one that keeps it."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import assert_never

from worker.keeper.spool import Spool
from worker.keeper.timers import Timers
from worker.plan import ExitStatus, LaunchPlan, StopCause
from worker.runtimes.base import Status, Stream
from worker.runtimes.fake_script import Await, Die, Disconnect, Exit, Gate, Script, Step, Write


class _Ended(Exception):
    """Unwinds the script's thread: the attempt is over."""


class FakeAttempt:
    """The state that a keeper would hold. ``changed`` guards all of it."""

    def __init__(
        self,
        plan: LaunchPlan,
        script: Script,
        *,
        deadline: float,
        abandon_after: float,
        pause: bool,
    ) -> None:
        self.plan = plan
        self.changed = threading.Condition()
        self.spools = {stream: Spool() for stream in Stream}
        self.exit: ExitStatus | None = None
        self.lost = False
        """The keeper vanished."""
        self.removed = False
        self.supervisor: object | None = None
        """The handle that counts; None while nobody is attached."""
        self._script = script
        self._can_pause = pause
        self._began = time.monotonic()
        self._timers = Timers(deadline=deadline, abandon_after=abandon_after, now=self._began)
        self._pauses: set[str] = set()
        self._cause: StopCause | None = None
        self._leases = [os.dup(fd) for fd in plan.grant.fds]
        self._threads = [
            threading.Thread(target=target, name=f"fake-{plan.attempt}", daemon=True)
            for target in (self._follow, self._keep)
        ]
        for thread in self._threads:
            thread.start()

    # --- what a supervisor asks for; the caller holds `changed`

    @property
    def status(self) -> Status:
        if self.lost or self.removed:
            return Status.GONE
        if self.exit is not None:
            return Status.EXITED
        return Status.PAUSED if self._pauses else Status.RUNNING

    def attach(self, supervisor: object) -> None:
        self.supervisor = supervisor
        for spool in self.spools.values():
            spool.rewind()
        self._timers.attached()
        self.changed.notify_all()

    def lose(self) -> None:
        """The supervisor's connection ended."""
        self.supervisor = None
        self._timers.lost(time.monotonic())
        self.changed.notify_all()

    def beat(self, deadline: float) -> None:
        now = time.monotonic()
        self._timers.beat(deadline, now)
        if now < deadline:
            self._pauses.discard("deadline")
        self.changed.notify_all()

    def pause(self, why: str) -> None:
        self._pauses.add(why)
        self.changed.notify_all()

    def resume(self, why: str) -> None:
        self._pauses.discard(why)
        self.changed.notify_all()

    def stop(self, grace: float) -> None:
        if self.exit is not None:
            return
        if "deadline" in self._pauses:
            self.kill(StopCause.REQUESTED)
            return
        if self._cause is None:
            self._cause = StopCause.REQUESTED
            self.signal(signal.SIGTERM)
        self._pauses.discard("user")
        self._timers.stop_at = min(self._timers.stop_at, time.monotonic() + grace)
        self.changed.notify_all()

    def kill(self, cause: StopCause) -> None:
        self._cause = self._cause or cause
        self._end(number=signal.SIGKILL)

    def signal(self, number: int) -> None:
        said = self._script.on_signal.get(number)
        if said is None or number == signal.SIGKILL:
            self._end(number=number)
        else:
            self.spools[Stream.STDOUT].append(said)
            self.changed.notify_all()

    def remove(self) -> None:
        if not self.removed:
            self.kill(StopCause.REQUESTED)
            self._leave()

    # --- its own life

    def _follow(self) -> None:
        try:
            if self._script.exec_error:
                with self.changed:
                    self._end(error=self._script.exec_error)
            for step in self._script.steps:
                self._do(step)
            self._do(Exit())
        except _Ended:
            pass

    def _do(self, step: Step) -> None:
        match step:
            case Write():
                self._write(step)
            case Await():
                self._await(step.gate)
            case Exit():
                with self._running():
                    self._end(code=step.code)
            case Die():
                with self._running():
                    self._cause = self._cause or step.cause
                    self._end(number=step.signal, oom=step.oom)
            case Disconnect():
                with self._running():
                    self.lost = True
                    self._leave()
            case _:
                assert_never(step)

    def _running(self) -> threading.Condition:
        """Wait until it may run, then hold ``changed``; raises when it is over."""
        self._wait(lambda: not self._pauses)
        return self.changed

    def _wait(self, ready: Callable[[], bool]) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self._over or ready())
            if self._over:
                raise _Ended

    @property
    def _over(self) -> bool:
        return self.exit is not None or self.lost or self.removed

    def _await(self, gate: Gate) -> None:
        def tell() -> None:
            with self.changed:
                self.changed.notify_all()

        gate.on_open(tell)
        self._wait(lambda: gate.is_open and not self._pauses)

    def _write(self, step: Write) -> None:
        spool = self.spools[step.stream]
        for _ in range(step.times):
            rest = step.data
            while rest:
                self._wait(lambda: spool.room > 0 and not self._pauses)
                with self.changed:
                    room = spool.room
                    spool.append(rest[:room])
                    rest = rest[room:]
                    self.changed.notify_all()

    def _keep(self) -> None:
        """The keeper's part: deadline, grace, abandonment."""
        with self.changed:
            while not self.removed and not self.lost:
                now = time.monotonic()
                if self._timers.expired(now) and self.exit is None:
                    if self._can_pause:
                        self._pauses.add("deadline")
                    else:
                        self.kill(StopCause.DEADLINE)
                if self._timers.grace_over(now):
                    self.kill(StopCause.REQUESTED)
                if self._timers.abandoned(now):
                    if self.exit is not None:
                        self._leave()
                        return
                    self.kill(StopCause.ABANDONED)
                due = self._timers.next_due(time.monotonic(), running=self.exit is None)
                self.changed.wait(None if due == math.inf else max(0.0, due - time.monotonic()))

    def _end(
        self,
        *,
        code: int | None = None,
        number: int | None = None,
        oom: bool = False,
        error: str = "",
    ) -> None:
        if self.exit is not None:
            return
        now = time.monotonic()
        self.exit = ExitStatus(
            code=code,
            signal=number,
            cause=self._cause,
            oom=oom,
            error=error,
            wall_seconds=now - self._began,
        )
        self._timers.ended(now)
        self.changed.notify_all()

    def _leave(self) -> None:
        self.removed = True
        while self._leases:
            os.close(self._leases.pop())
        self.changed.notify_all()
