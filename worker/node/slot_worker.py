"""The one Celery worker of a slot: started, watched, restarted, taken over, stopped.

It has a session of its own, so a Ctrl-C on the terminal reaches only the agent, and it lives on
when the agent dies: the next agent of the state directory takes it over. With no agent it goes on
serving.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from typing import Final

from worker.keeper.settle import remove_tree
from worker.node import slot_records
from worker.node.identity import boot_id
from worker.node.log import event
from worker.node.nursery import Nursery
from worker.node.paths import NodePaths
from worker.node.processes import WatchedProcess, kill_group, slot_leaders
from worker.node.slot_records import SlotRecord
from worker.node.slots import MARGIN_S, Launch, Slot, slot_env

_LOOK_FOR_READY: Final = 0.05


class WorkerState(StrEnum):
    """What a slot's worker does."""

    WAITING = "waiting"
    """There is none: one is started when the back-off is over."""
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    """It takes no new job and ends after the one that it has."""
    QUITTING = "quitting"
    """It was told to hand its job back and end."""
    STOPPED = "stopped"
    """There is none, and none will be started."""


_ALIVE: Final = frozenset(
    {WorkerState.STARTING, WorkerState.READY, WorkerState.DRAINING, WorkerState.QUITTING}
)


class SlotWorker:
    """The worker of one slot. Driven by `step`; never blocks for long; one thread."""

    def __init__(
        self,
        slot: Slot,
        *,
        paths: NodePaths,
        launch: Launch,
        nursery: Nursery,
        before_start: Callable[[Slot], None] = lambda slot: None,
    ) -> None:
        """``before_start`` runs before each start, when no worker of the slot is alive."""
        self.slot = slot
        """As its worker was, or will be, started."""
        self._own = slot
        self._paths = paths
        self._launch = launch
        self._nursery = nursery
        self._before_start = before_start
        self._process: WatchedProcess | None = None
        self._since = 0.0
        self._state = WorkerState.WAITING
        self._failures = 0
        self._due = 0.0
        self._kill_at: float | None = None
        self._replace = True

    @property
    def state(self) -> WorkerState:
        return self._state

    @property
    def pid(self) -> int | None:
        """Of the Celery main process; None while there is none."""
        return self._process.name.pid if self._process else None

    @property
    def process(self) -> WatchedProcess | None:
        """To be polled: readable when it has ended."""
        return self._process

    # --- life

    def adopt(self, now: float) -> bool:
        """Take over the worker that an earlier agent left, if there is one. Call it once, first.

        One with another digest is drained, then replaced. What a dead one left is ended.
        """
        record = slot_records.read(self._paths, self.slot.name)
        if record is not None and record.boot_id == boot_id():
            self._process = WatchedProcess.find(record.process)
            if self._process is None:
                self._clear_group(record)
        if self._process is None:
            record, self._process = None, self._unrecorded()
        if self._process is None:
            slot_records.forget(self._paths, self.slot.name)
            return False
        self._unmark()  # an agent that was killed in the midst of a stop may have said it
        self._since = now
        self._state = WorkerState.STARTING
        event("slot.adopted", slot=self.slot.name, pid=self.pid)
        if record is None or record.digest != self._launch.digest_for(self.slot):
            event("slot.outdated", slot=self.slot.name, pid=self.pid)
            self._signal(WorkerState.DRAINING, signal.SIGTERM)
        return True

    def step(self, now: float) -> None:
        """Do what is due at ``now`` (seconds of time.monotonic())."""
        if self._process is not None and self._process.ended:
            self._on_end(now)
        match self._state:
            case WorkerState.WAITING if now >= self._due:
                self._start(now)
            case WorkerState.STARTING:
                self._look_for_ready()
            case WorkerState.QUITTING if self._kill_at is not None and now >= self._kill_at:
                self.kill()

    def wake_at(self, now: float) -> float | None:
        """When `step` has something to do next; None: when the process ends."""
        match self._state:
            case WorkerState.WAITING:
                return self._due
            case WorkerState.STARTING:
                return now + _LOOK_FOR_READY
            case WorkerState.QUITTING:
                return self._kill_at
        return None

    def renew(self, launch: Launch) -> None:
        """Start it in this way from now on; one that was started otherwise ends after the job in
        progress, and is replaced."""
        outdated = launch.digest != self._launch.digest
        self._launch = launch
        if outdated:
            self.refresh()

    def refresh(self) -> None:
        """Have it ended after the job in progress, and replaced: what it reads is not right now."""
        if self._state in (WorkerState.STARTING, WorkerState.READY):
            event("slot.outdated", slot=self.slot.name, pid=self.pid)
            self._signal(WorkerState.DRAINING, signal.SIGTERM)

    # --- stop; each is stronger than the one before, and may be called again

    def drain(self) -> None:
        """End after the job in progress, for good."""
        self._replace = False
        if self._state in (WorkerState.STARTING, WorkerState.READY):
            self._signal(WorkerState.DRAINING, signal.SIGTERM)
        elif self._state is WorkerState.WAITING:
            self._state = WorkerState.STOPPED

    def serve(self, now: float) -> None:
        """Take jobs again after a `drain`, or after `go_on`. Nothing if it does, or ends by `quit`
        or `kill`."""
        other, self.slot = self.slot != self._own, self._own
        self._replace = True
        if self._state is WorkerState.STOPPED:
            self._state, self._due, self._failures = WorkerState.WAITING, now, 0
        elif other:
            self.refresh()

    def go_on(self, now: float, *, hands_back: bool = False) -> None:
        """It has ended for good, and an attempt of its slot lives: see to that, and take no other
        job. ``hands_back``: the attempt is taken over to be ended, and its job given back."""
        if self._state is WorkerState.STOPPED:
            self.slot = replace(self._own, retired=True, hands_back=hands_back)
            self._replace = True
            self._state, self._due, self._failures = WorkerState.WAITING, now, 0

    def keep_job(self) -> None:
        """What was to be handed back goes on, unless a worker does that already."""
        if self._state is WorkerState.WAITING and self.slot.hands_back:
            self.slot = replace(self.slot, hands_back=False)

    def quit(self, now: float) -> None:
        """Hand the job in progress back and end, for good; by SIGKILL if it takes too long."""
        if self._state is not WorkerState.QUITTING:
            self._unmark()
        self._quit(now, self._launch.kill_after)

    def leave(self, now: float, away: float) -> None:
        """Leave the job in progress running, for ``away`` seconds, and end, for good; by SIGKILL if
        it takes too long. Nothing is handed back, so no job's grace is waited for."""
        try:
            slot_records.mark_leaving(self._paths, self.slot.name, away)
        except OSError as error:  # then it goes back to the queue
            event("slot.unmarked", level=logging.ERROR, slot=self.slot.name, error=str(error))
        self._quit(now, min(self._launch.kill_after, MARGIN_S))

    def kill(self) -> None:
        """End at once, for good."""
        self._replace = False
        if self._state is WorkerState.WAITING:
            self._state = WorkerState.STOPPED
        elif self._state in _ALIVE:
            self._kill_at = None
            event("slot.killed", level=logging.WARNING, slot=self.slot.name, pid=self.pid)
            self._signal(WorkerState.QUITTING, signal.SIGKILL)

    def abandon(self) -> None:
        """Stop watching; the worker lives on for the next agent."""
        if self._process is not None:
            self._process.abandon()
            self._process = None

    # --- inside

    def _quit(self, now: float, within: float) -> None:
        self._replace = False
        if self._state is WorkerState.WAITING:
            self._state = WorkerState.STOPPED
        elif self._state in _ALIVE and self._state is not WorkerState.QUITTING:
            self._kill_at = now + within
            self._signal(WorkerState.QUITTING, signal.SIGQUIT)

    def _unmark(self) -> None:
        """Its job is not to be left, whatever was asked of it before."""
        try:
            slot_records.unmark_leaving(self._paths, self.slot.name)
        except OSError as error:  # then its job goes on, if nobody ends it
            event("slot.still_marked", level=logging.ERROR, slot=self.slot.name, error=str(error))

    def _start(self, now: float) -> None:
        name = self.slot.name
        temp = self._paths.slot_temp(name)
        self._since = now
        log = 2
        try:
            self._before_start(self.slot)
            remove_tree(temp)
            slot_records.forget(self._paths, name)
            slot_records.unmark_leaving(self._paths, name)
            temp.mkdir(mode=0o700, exist_ok=True)
            if not self._launch.log_to_stderr:
                log = slot_records.open_log(self._paths.slot_log(name))
            born = self._nursery.bear(
                self._launch.command(self.slot),
                env=slot_env(self._launch, self.slot, self._paths),
                output=log,
                name=name,
            )
        except OSError as error:
            self._on_failure(now, f"cannot be started: {error}")
            return
        finally:
            if log != 2:
                os.close(log)
        record = SlotRecord(
            slot=name,
            pid=born.process.name.pid,
            start=born.process.name.start,
            boot_id=boot_id(),
            digest=self._launch.digest_for(self.slot),
            started=time.time(),
        )
        try:
            slot_records.write(self._paths, record)
        except OSError as error:  # an agent after this one would not know it
            born.let_go()
            born.process.abandon()
            self._on_failure(now, f"cannot be started: {error}")
            return
        self._process = born.process
        self._state = WorkerState.STARTING
        born.go()
        event("slot.started", slot=name, pid=self.pid)

    def _look_for_ready(self) -> None:
        if self._process is not None and slot_records.ready(
            self._paths, self.slot.name, self._process.name.pid
        ):
            self._state = WorkerState.READY
            event("slot.ready", slot=self.slot.name, pid=self.pid)

    def _on_end(self, now: float) -> None:
        assert self._process is not None  # noqa: S101 - for the type checker
        name, code = self._process.name, self._process.collect()
        self._process = None
        self._kill_at = None
        left = kill_group(name)
        slot_records.forget(self._paths, self.slot.name)
        how = "ended" if code is None else f"signal {-code}" if code < 0 else f"exit code {code}"
        event("slot.ended", slot=self.slot.name, pid=name.pid, how=how, killed=left)
        if not self._replace:
            self._state = WorkerState.STOPPED
        elif self._state is WorkerState.DRAINING:
            self._state, self._due = WorkerState.WAITING, now  # an outdated one, now replaced
        else:
            self._on_failure(now, how)

    def _on_failure(self, now: float, how: str) -> None:
        restarts = self._launch.restarts
        self._failures = restarts.failures(self._failures, now - self._since)
        delay = restarts.delay(self._failures)
        self._state, self._due = WorkerState.WAITING, now + delay
        if restarts.crash_looping(self._failures):
            path = self._paths.slot_log(self.slot.name)
            event(
                "slot.crash_loop",
                level=logging.ERROR,
                slot=self.slot.name,
                how=how,
                times=self._failures,
                retry_in=delay,
                log=str(path),
                last_lines=[] if self._launch.log_to_stderr else slot_records.last_lines(path),
            )
        else:
            event(
                "slot.restarting",
                level=logging.WARNING,
                slot=self.slot.name,
                how=how,
                retry_in=delay,
            )

    def _signal(self, state: WorkerState, number: int) -> None:
        self._state = state
        if self._process is not None:
            self._process.send(number)

    def _unrecorded(self) -> WatchedProcess | None:
        """A worker whose record was lost."""
        state_dir, lock = str(self._paths.state_dir), self._paths.slot_lock(self.slot.name)
        for name in slot_leaders(state_dir, self.slot.name, lock):
            if found := WatchedProcess.find(name):
                return found
        return None

    def _clear_group(self, record: SlotRecord) -> None:
        killed = kill_group(record.process)
        if killed:
            event("slot.cleared", slot=self.slot.name, pid=record.pid, killed=killed)
