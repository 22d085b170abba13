"""A container as its keeper sees it, through the engine's socket.

What is wanted of it (dead, frozen, signalled) is written down by the keeper and carried out here,
one request at a time and without ever blocking. An engine that goes away and comes back is no end
of the container: its output goes on where it was left, and how it ended is asked for.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections import deque

from worker.keeper import engine, procfs, protocol
from worker.keeper.attachment import Attachment
from worker.keeper.cgroups import Meter, groups
from worker.keeper.cpus import affinity, keep_to
from worker.keeper.engine import Exchange
from worker.keeper.mourner import Mourner
from worker.keeper.spool import Spool
from worker.keeper.tally import Tally
from worker.keeper.verdict import container_verdict
from worker.keeper.watch import READ, Watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from worker.keeper.protocol import Exit, Spec

_START_WITHIN: Final = 60.0
_CALL_WITHIN: Final = 20.0
_METER_EVERY: Final = 0.5
_KILL_AGAIN: Final = 1.0
_RETRY_MOST: Final = 1.0
_GIVE_UP: Final = 60.0
"""Seconds after its death for which an engine that is away is asked how a container ended."""
_PATIENCE_TO_FREEZE: Final = 5.0


class ContainerSubject:
    """See `worker.keeper.subject.Subject`."""

    def __init__(self, spec: Spec, leases: list[int], watch: Watch) -> None:
        container = spec["container"]
        self._socket = container["socket"]
        self._base = f"/v{container['api']}/containers/{container['id']}"
        self._memory_mb = container["memory_mb"]
        self._cpus = container["cpus"]
        self._pauses = container["pauses"]
        self._metered = container["metered"]
        self._slot = spec["slot"]
        self._program = spec["argv"][0]
        self._leases = leases
        self._watch = watch
        self.spools = [Spool() for _ in range(protocol.STREAMS)]
        self._output = Attachment(self._socket, self._base, self.spools, watch)
        self._waiting: Exchange | None = None
        self._op: Exchange | None = None
        self._op_until = math.inf
        self._doing = ""
        self._signals: deque[int] = deque()
        self._kill = self._freeze = self._frozen = False
        self._frozen_since = math.inf
        self._ask = False
        """The engine is to be asked what has become of it."""
        self._away = False
        """The engine is away, or was when the container ended: it may have ended it."""
        self._retry_at = 0.0
        self._back_off = 0.05
        self._handle = -1
        self._dead_at = math.inf
        """When the main process was seen dead, which needs no engine."""
        self._state: dict[str, Any] | None = None
        self._meter_at = 0.0
        self._wall = 0.0
        self.pid = 0
        self.all_dead = False

    @property
    def ended(self) -> bool:
        return self.all_dead

    @property
    def tether(self) -> int:
        return -1

    @property
    def pauses(self) -> bool:
        return self._pauses

    @property
    def drained(self) -> bool:
        return self.all_dead and self._output.over

    # --- start

    def start(self) -> None:
        """Attach and wait first, so that neither output nor end can be missed."""
        self._mourner = Mourner(self._socket, self._base, self._leases)
        try:
            self._output.attach()
            self._wait()
        except OSError:
            self._mourner.dismiss()  # nothing was started, so there is nothing to kill
            raise
        self._began = time.monotonic()
        started = engine.call(self._socket, "POST", f"{self._base}/start", within=_START_WITHIN)
        if not started.ok:
            self._mourner.dismiss()  # the engine has said that it does not run
            raise OSError(f"the engine does not start the container: {started.text()}")
        seen = engine.call(self._socket, "GET", f"{self._base}/json", within=_CALL_WITHIN)
        if not seen.ok:
            raise OSError(f"the container has vanished: {seen.text()}")
        self.pid = int(json.loads(seen.body)["State"].get("Pid") or 0)
        if self.pid:
            try:
                self._handle = os.pidfd_open(self.pid)
            except OSError:
                self.pid = 0
        self._ask = not self.pid  # it has ended already, and who waits for that may wait for ever
        # groups that it shares with others say nothing of it: then its processes are added up
        self._meter: Meter | Tally = Tally(self.pid)
        if self._metered:
            self._meter = Meter(groups(self.pid) if self.pid else {})
        if self._cpus and self.pid:
            available = sorted(os.sched_getaffinity(0))
            keep_to(self.pid, affinity(self._slot, self._cpus, available))
        if self._handle >= 0:
            self._mourner.know(self.pid)
            self._watch.want(self._handle, READ, self._died)

    def _wait(self) -> None:
        self._waiting = Exchange(self._socket, "POST", f"{self._base}/wait?condition=next-exit")

    def _died(self) -> None:
        """The main process, which is the first of its namespace: so all of them. The engine will
        say how."""
        self._meter.look()
        self._dead_at = time.monotonic()
        # the engine tells whoever waits; but Podman not of one that ended at once
        self._ask = True
        if self._doing == "kill":
            self._close_op()  # its answer may wait for Podman's clearing up
        self._watch.forget(self._handle)
        os.close(self._handle)
        self._handle = -1

    # --- the loop

    def look(self, now: float) -> None:
        if self.all_dead:
            return
        if now >= self._meter_at and self._handle >= 0:
            self._meter.look()
            self._meter_at = now + _METER_EVERY
        if self._output.broken and not self._away:
            self._lost(now)
        if now > self._dead_at + _GIVE_UP:
            self._conclude(None)
        elif self._op is not None and now > self._op_until:
            self._close_op()  # an engine that hangs
            self._lost(now)
        elif self._op is None and now >= self._retry_at:
            self._next(now)

    def next_due(self, now: float) -> float:
        if self.all_dead:
            return self._output.next_due(now)
        due = [self._output.next_due(now), self._dead_at + _GIVE_UP]
        if self._handle >= 0:
            due.append(self._meter_at)
        if self._op is not None:
            due.append(self._op_until)
        if self._op is None and self._wanted():
            due.append(max(self._retry_at, now))
        if self._freeze and not self._frozen:
            due.append(self._frozen_since + _PATIENCE_TO_FREEZE)
        return min(due)

    def declare(self) -> None:
        self._output.declare()
        if self._waiting is not None:
            self._watch.want(self._waiting.fd, READ, self._hear_end)
        if self._op is not None:
            self._watch.want(self._op.fd, READ, self._hear_op)

    def members(self) -> list[procfs.Process]:
        """Asked for where the engine does not keep its limits."""
        self._meter.look()  # what ends it is seen in its figures
        first = procfs.process(self.pid) if self._handle >= 0 else None
        return [first, *procfs.descendants(self.pid)] if first is not None else []

    def pids(self) -> list[int]:
        return [self.pid, *procfs.below(self.pid)] if self._handle >= 0 else []

    def signal(self, number: int) -> None:
        if not self.all_dead:
            self._signals.append(number)

    def beside(self, argv: list[str], fds: list[int]) -> None:
        """The engine runs commands in its containers, and is asked for them without a keeper."""
        for fd in fds:
            os.close(fd)

    def kill(self) -> None:
        self._kill = True
        if self._handle >= 0:
            if self._freeze or self._frozen:
                procfs.kill_below(self.pid)  # or they would run between its thaw and its death
            # where this user may, the kernel does it: an engine may be away, or hang
            procfs.send_to(self._handle, 9)

    def stop(self) -> bool:
        if not self._pauses:
            return False
        if not self._freeze:
            self._freeze = True
            self._frozen_since = time.monotonic()
        return self._frozen

    def resume(self) -> None:
        self._freeze = False

    def unstoppable(self, now: float) -> bool:
        if not self._pauses:
            return True
        waited = now - self._frozen_since
        return self._freeze and not self._frozen and waited > _PATIENCE_TO_FREEZE

    def drain(self) -> None:
        self._output.drain()

    def exit(self, cause: str | None) -> Exit:
        return container_verdict(
            state=self._state,
            cause=cause or ("engine" if self._away else None),
            said=bytes(self._output.first_words),
            program=self._program,
            oom_kills=self._meter.oom_kills,
            peak_mb=self._meter.peak_mb,
            memory_mb=self._memory_mb,
            cpu_seconds=self._meter.cpu_seconds,
            wall_seconds=self._wall,
        )

    def leave(self) -> None:
        self._mourner.dismiss()

    # --- one thing after the other

    def _wanted(self) -> str:
        """What is to be asked of the engine now; '' for nothing."""
        if self._ask:
            return "inspect"
        if self._kill:
            return "kill"
        if self._signals:
            return "signal"
        if self._freeze != self._frozen:
            return "pause" if self._freeze else "unpause"
        return ""

    def _next(self, now: float) -> None:
        self._doing = self._wanted()
        match self._doing:
            case "":
                return
            case "inspect":
                self._request("GET", "json", now)
            case "kill":
                self._request("POST", "kill?signal=9", now)
            case "signal":
                self._request("POST", f"kill?signal={self._signals[0]}", now)
            case _:
                self._request("POST", self._doing, now)

    def _request(self, method: str, what: str, now: float) -> None:
        try:
            self._op = Exchange(self._socket, method, f"{self._base}/{what}")
            self._op_until = now + _CALL_WITHIN
        except OSError:
            self._lost(now)

    def _hear_op(self) -> None:
        assert self._op is not None  # noqa: S101 - it is watched only while there is one
        now = time.monotonic()
        try:
            self._op.advance()
        except OSError:
            self._close_op()
            self._lost(now)
            return
        if self._op.reader.complete:
            answer = self._op.reader.answer
            self._close_op()
            self._answered(answer, now)

    def _close_op(self) -> None:
        if self._op is not None:
            self._watch.forget(self._op.fd)
            self._op.close()
            self._op = None

    def _answered(self, answer: engine.Answer, now: float) -> None:
        self._back_off = 0.05
        match self._doing:
            case "inspect":
                self._inspected(answer, now)
                return
            case "signal":
                self._signals.popleft()
            case "kill":
                self._retry_at = 0.0 if self._ask else now + _KILL_AGAIN
            case "pause" if answer.ok:
                self._frozen = True
            case "unpause" if answer.ok:
                self._frozen = False
        if not answer.ok:
            # not running, not paused, gone: whatever it is, the engine knows
            self._ask = True
            self._retry_at = now + self._back_off

    def _inspected(self, answer: engine.Answer, now: float) -> None:
        if answer.status == 404:
            self._conclude(None)
            return
        if not answer.ok:
            self._later(now)
            return
        state = json.loads(answer.body)["State"]
        if not state.get("Running"):
            self._conclude(state)
            return
        self._frozen = bool(state.get("Paused"))
        if self._waiting is None:
            try:
                self._wait()
                self._output.reattach()
            except OSError:
                self._lost(now)
                return
            # it may have ended between the answer and the wait: look once more
            self._later(now)
            return
        if self._dead_at < math.inf:
            self._later(now)  # it is dead, and the engine has not noticed yet
            return
        self._ask = self._away = False  # the engine has not ended it

    def _hear_end(self) -> None:
        assert self._waiting is not None  # noqa: S101 - it is watched only while there is one
        try:
            self._waiting.advance()
        except OSError:
            self._lost(time.monotonic())
            return
        if self._waiting.reader.complete:
            self._hang_up()
            self._ask = True
            self._retry_at = 0.0

    def _hang_up(self) -> None:
        if self._waiting is not None:
            self._watch.forget(self._waiting.fd)
            self._waiting.close()
            self._waiting = None

    def _lost(self, now: float) -> None:
        """The engine went away, or its connections broke."""
        self._away = True
        self._hang_up()
        self._output.hang_up()
        self._ask = True
        self._later(now)

    def _later(self, now: float) -> None:
        self._retry_at = now + self._back_off
        self._back_off = min(2 * self._back_off, _RETRY_MOST)

    def _conclude(self, state: dict[str, Any] | None) -> None:
        """It is dead: its state as the engine has it, None if nobody knows."""
        self._wall = min(self._dead_at, time.monotonic()) - self._began
        self._state = state
        self._close_op()
        self._hang_up()
        if self._handle >= 0:
            self._died()
        self.all_dead = True
        self._output.finish()
