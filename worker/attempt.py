"""One running attempt, watched: its stream decoded and published, its time-outs, its orders.

The supervisor starts an attempt and hands it over to `watch`, which returns when it has ended.
Control comes from three threads (the lease's, the orders', the worker's own for a shutdown); all
of them only set why the attempt ends, once, and tell the runtime's handle, which is thread-safe.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tasks import events
from tasks.errors import KeeperError
from tasks.job import JobConfig
from tasks.state import JobState
from worker.keeper.protocol import SPOOL_BYTES
from worker.outcome import Ended
from worker.plan import ExitStatus, StopCause
from worker.runtimes.base import Chunk, Handle, Stream
from worker.stream.buffer import stream_of
from worker.stream.decoder import Decoder, Said
from worker.stream.publisher import Publisher
from worker.stream.throttle import Throttle

log = logging.getLogger(__name__)

_POLL_S = 0.25
_MOST_UNTOLD = SPOOL_BYTES // 2
"""Bytes of a stream that its keeper keeps for a successor while they wait to be published."""
_TELL_CELERY_EVERY_S = 1.0
SHORT_S = 0.05
"""A job that ends sooner is never STARTED in Celery's view, and all its events come with its end:
to tell of it step by step would cost more than the job."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How long an attempt may take. Seconds; 0: for ever."""

    timeout: float
    stall: float
    grace: float
    """Between SIGTERM and SIGKILL."""


class Left(Exception):
    """The attempt was left to a successor."""


class Attempt:
    """A started attempt. `watch` runs on the supervisor's thread; the rest may come from any."""

    def __init__(
        self,
        *,
        job: JobConfig,
        handle: Handle,
        publisher: Publisher,
        patience: Patience,
        started: Callable[[], None],
        progress: Callable[[Mapping[str, Any]], None],
        lasts: Callable[[], None] = lambda: None,
        saved: Callable[[], None] = lambda: None,
        decoder: Decoder | None = None,
        began: float | None = None,
        paused: bool = False,
    ) -> None:
        """``started``, ``progress``: tell Celery, which may fail without harm. ``lasts``: called
        when the attempt turns out to be none of `SHORT_S`. ``saved``: called for each checkpoint
        that the job reports. ``decoder``, ``began``, ``paused``: of
        an attempt that an earlier supervisor started, at that time.monotonic()."""
        self._handle = handle
        self._publisher = publisher
        self._patience = patience
        self._started = started
        self._progress = progress
        self._lasts = lasts
        self._saved = saved
        self._throttle = Throttle(_TELL_CELERY_EVERY_S)
        self._lock = threading.Lock()
        self._paused = paused
        self._leaves = False
        self._began = began
        self._acked = dict.fromkeys(Stream, 0)
        publisher.on_told = self._acknowledge
        self.decoder = decoder or Decoder(handle.attempt.job_id, job.epochs)
        self.ended: Ended | None = None
        self.why = ""
        self.fenced = threading.Event()

    def end(self, ended: Ended, why: str) -> None:
        """Stop the attempt, for this reason unless there is one already."""
        with self._lock:
            if self.ended is not None:
                return
            self.ended, self.why = ended, why
        self._tell(lambda: self._handle.stop(self._patience.grace))

    def leave(self) -> None:
        """Read it no further, and let it go on: `watch` raises Left."""
        self._leaves = True

    def stand_as_recorded(self) -> None:
        """Have a keeper that was heard by an earlier supervisor do what the record says, which may
        not have come to know of the last order. Call it before orders can come."""
        self._tell(self._handle.pause if self._paused else self._handle.resume)

    # of the lease, from its thread

    def renewed(self, deadline: float) -> None:
        """The lease holds until ``deadline``."""
        self._tell(lambda: self._handle.beat(deadline))

    def lost(self) -> None:
        """The job is somebody else's: nothing of this attempt may go on."""
        self.fenced.set()
        self._tell(self._handle.fence)

    def cancel_asked(self, why: str) -> None:
        """The record says so."""
        self.end(Ended.CANCELLED, why)

    # of the control channel

    def order(self, op: str, order: Mapping[str, Any]) -> None:
        """cancel, pause, resume or checkpoint."""
        match op:
            case "cancel":
                self.end(Ended.CANCELLED, str(order.get("why") or ""))
            case "pause":
                self._pause()
            case "resume":
                self._resume()
            case "checkpoint":
                self._tell(lambda: self._handle.signal(signal.SIGUSR1))
            case _:
                log.warning("orders.unknown job=%s op=%.40r", self._handle.attempt.job_id, op)

    def _pause(self) -> None:
        with self._lock:
            if self._paused or self.ended is not None:
                return
            self._paused = True
        self._tell(self._handle.pause)
        self._publisher.state(events.Paused(why="asked for"), state=JobState.PAUSED)

    def _resume(self) -> None:
        with self._lock:
            was_paused, self._paused = self._paused, False
        self._tell(self._handle.resume)  # in any case: no error may leave it standing still
        if not was_paused:
            return
        self._publisher.state(events.Resumed(why="asked for"), state=JobState.RUNNING)

    # the supervisor's thread

    def watch(self) -> ExitStatus:
        """Read the attempt to its end. Raises Left."""
        quiet_since = time.monotonic()
        begun = quiet_since if self._began is None else self._began
        told = False
        while True:
            if self._leaves and self.ended is None:
                raise Left
            try:
                what = self._handle.read(_POLL_S if told else SHORT_S)
            except KeeperError as error:
                log.error("keeper.lost attempt=%s error=%s", self._handle.attempt, error)
                self._flush()
                return ExitStatus(code=None, cause=StopCause.ABANDONED)
            now = time.monotonic()
            if isinstance(what, ExitStatus):
                self._flush()
                return what
            if told:
                self._publisher.begin()  # whether orders are heard by now or not
            elif now - begun >= SHORT_S:
                told = True
                self._lasts()
                self._tell_celery(self._started)
            if isinstance(what, Chunk):
                quiet_since = now
                self._publish(Stream(what.stream), self.decoder.feed(what))
            elif self._paused:
                quiet_since = now
            self._check_time(now - begun, now - quiet_since)

    def _check_time(self, running: float, silent: float) -> None:
        patience = self._patience
        if patience.timeout and running > patience.timeout:
            self.end(Ended.TIMEOUT, f"ran longer than {patience.timeout:g} s")
        elif patience.stall and silent > patience.stall:
            self.end(Ended.STALLED, f"printed nothing for {patience.stall:g} s")

    def _flush(self) -> None:
        for said in self.decoder.flush():
            self._publish(Stream(stream_of(said.event)), [said])

    def _publish(self, stream: Stream, said: list[Said]) -> None:
        consumed = self.decoder.consumed(stream)
        self._publisher.read(said, stream, consumed, self.decoder.memory)
        if consumed - self._acked[stream] > _MOST_UNTOLD:
            # Redis is slow or away, or the job says nothing that is published: it may not have to
            # wait for that. What a successor would then miss, it says.
            self._acknowledge({stream: consumed})
        for event, _, _ in said:
            if isinstance(event, events.Checkpoint):
                self._saved()
            elif isinstance(event, events.Progress) and self._throttle.ready(time.monotonic()):
                self._tell_celery_progress(event)

    def _acknowledge(self, offsets: Mapping[str, int]) -> None:
        """Everything before these offsets is told: no successor needs it."""
        for stream, offset in offsets.items():
            if offset > self._acked[Stream(stream)]:
                self._acked[Stream(stream)] = offset
                self._handle.ack(Stream(stream), offset)

    def _tell_celery_progress(self, event: events.Progress) -> None:
        fields = {
            "epoch": event.epoch,
            "total_epochs": event.total_epochs,
            "progress": event.progress,
            "loss": event.loss,
            "accuracy": event.accuracy,
        }
        shown = {key: value for key, value in fields.items() if value is not None}
        self._tell_celery(lambda: self._progress(shown))

    def _tell_celery(self, tell: Callable[[], None]) -> None:
        """Celery's own view; the job goes on without it."""
        try:
            tell()
        except Exception as error:  # whatever Celery's backend raises
            log.warning("celery.untold job=%s error=%r", self._handle.attempt.job_id, error)

    def _tell(self, verb: Callable[[], None]) -> None:
        try:
            verb()
        except KeeperError as error:
            log.warning("keeper.unreachable attempt=%s error=%s", self._handle.attempt, error)
