"""One claimed attempt, from admission to its end. Reads in the order in which things happen."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import redis

from tasks import events
from tasks.errors import (
    InvalidJob,
    KeeperError,
    LeaseLost,
    RecordGone,
    RuntimeUnavailable,
    StartUncertain,
)
from tasks.exec_request import EXEC, EXEC_END
from tasks.executor import Delivery, Dropped, Verdict
from tasks.job import JobConfig
from tasks.recorded import Claimed
from tasks.state import FailureReason, JobState
from worker.attempt import Attempt, Left, Patience
from worker.audited import Audited
from worker.device_watch import DeviceWatch
from worker.ending import Ending
from worker.execs import Execs
from worker.granting import promised_mb
from worker.heirs import Heir
from worker.judging import judge
from worker.keeper import secret_files
from worker.lease import Renewal, local_deadline
from worker.limits import effective_timeout
from worker.note import Note, remember
from worker.outcome import Ended, Evidence, Outcome, decide
from worker.parts import NodeParts
from worker.plan import AttemptId, ExitStatus, LaunchPlan
from worker.planning import Planning
from worker.restoring import Restoring
from worker.runtimes.base import Handle, Status
from worker.stream.decoder import Decoder
from worker.stream.masking import Mask
from worker.stream.publisher import Publisher
from worker.stream.reading import Reading
from worker.supplies import Supplies
from worker.turned_away import TurnedAway

log = logging.getLogger(__name__)

_HEARD_AT_ONCE_S = 0.5
_GONE_AGAIN_S = 0.2


class _Ended(Exception):
    """Cancelled or shut down before anything was started."""


class Run:
    """One claimed attempt. `shutdown` may come from another thread or a signal handler."""

    def __init__(
        self,
        parts: NodeParts,
        delivery: Delivery,
        claim: Claimed,
        claimed: float,
        until_redis_answers: Callable[[Callable[[], Any]], Any],
        heir: Heir | None = None,
    ) -> None:
        """``claimed``: time.monotonic() just before the claim was sent. ``heir``: the attempt runs
        already, and an earlier supervisor has begun to read it."""
        self._parts = parts
        self._delivery = delivery
        self._claim = claim
        self._sure = until_redis_answers
        self._sealer = parts.sealer(claim)
        self._ending = Ending(
            parts.records.leases,
            claim,
            parts.place.node,
            self._until_there_is_a_record,
            meta=delivery.meta,
            signer=parts.signer,
            sealer=self._sealer,
        )
        self._id = AttemptId(job_id=claim.lease.job_id, fence=claim.lease.fence)
        self._audited = Audited(parts.audit, self._id, claim.attempt)
        self._heir = heir
        before = None if heir is None else heir.adopted
        self._reading = None if before is None else Reading.from_json(before.reading)
        self._publisher = Publisher(
            parts.records.leases,
            claim.lease,
            on_lost=self.lost,
            crew=parts.crew,
            batch=0 if before is None else before.batch,
            left=self._reading,
            hold=heir is None,
            sealer=self._sealer,
        )
        self._renewal = Renewal(
            parts.records.leases,
            claim.lease,
            parts.settings.lease_ttl_ms,
            self,
            claimed,
            crew=parts.crew,
        )
        self._publisher.on_gone = self._renewal.soon
        self._restoring = Restoring(parts, claim, delivery.queue, self._publisher, self._sealer)
        self._supplies = Supplies(parts.config, self._id, self._publisher, self._check)
        self._keeping = parts.keeping(claim.lease)
        self._planning = Planning(
            parts,
            claim,
            audited=self._audited,
            publisher=self._publisher,
            supplies=self._supplies,
            keeping=self._keeping,
            until_redis_answers=self._until_there_is_a_record,
            lasts=self._lasts,
            check=self._check,
        )
        self._execs = Execs(parts, claim, self._audited)
        self._attempt: Attempt | None = None
        self._handle: Handle | None = None if heir is None else heir.handle
        self._note: Note | None = None if heir is None else heir.note
        self._devices: DeviceWatch | None = None
        self._mask: Mask | None = None
        self._early: tuple[Ended, str] | None = None
        self._fenced = False
        self._forgotten = False
        self._uncertain = False
        self._away = 0.0
        self._is_left = False
        self._lasting = False
        self._began = time.monotonic()
        if heir is not None and heir.note.began is not None:
            self._began = heir.note.began

    # told by the lease's thread, the orders' thread and the publisher

    def renewed(self, deadline: float) -> None:
        """The lease holds until ``deadline``."""
        if self._attempt is not None:
            self._attempt.renewed(deadline)

    def lost(self) -> None:
        """The job is somebody else's."""
        self._fenced = True
        self._publisher.give_up()
        if self._attempt is not None:
            self._attempt.lost()

    def forgotten(self) -> None:
        """Redis has lost the record of the job, which may be somebody else's by now."""
        # after longer than records of ended jobs stay, it may be that the job has ended elsewhere
        known_until = self._renewal.deadline + self._parts.records.terminal_ttl_s
        self._forgotten = time.monotonic() < known_until
        self.lost()

    def restore(self) -> None:
        """Redis has lost the record of the job, which runs: it is written again."""
        self._restoring.as_running()

    def _until_there_is_a_record(self, ask: Callable[[], Any]) -> Any:
        """Ask until Redis answers, and has the record of the job. Raises LeaseLost."""
        while True:
            try:
                return self._sure(ask)
            except RecordGone:
                if self._fenced:
                    raise
                self._lasts()  # a short job has had no renewal so far
                self._renewal.soon()  # which restores it, or finds that it may not
                time.sleep(_GONE_AGAIN_S)

    def cancel_asked(self, why: str) -> None:
        """The record says that the job shall be cancelled."""
        self._end(Ended.CANCELLED, why)

    def shutdown(self) -> None:
        """The node stops: end the attempt, hand the job back."""
        self._end(Ended.SHUTDOWN, f"node {self._parts.place.node} stopped")

    def leave(self, away: float) -> bool:
        """The node stops for a while: the attempt goes on without this supervisor, for ``away``
        seconds. False: there is none yet."""
        if self._attempt is None:
            return False
        self._away = away
        self._attempt.leave()
        return True

    def _end(self, ended: Ended, why: str) -> None:
        self._early = self._early or (ended, why)
        if self._attempt is not None:
            self._attempt.end(ended, why)

    def listening(self) -> None:
        """Orders are heard, so it may be told that it runs: what was asked before stands in the
        record."""
        self._publisher.begin()
        if time.monotonic() - self._began > _HEARD_AT_ONCE_S:
            self._renewal.soon()  # else its first renewal, which is near, finds it

    def order(self, op: str, order: Mapping[str, Any]) -> None:
        """Something is asked of the attempt."""
        if op in (EXEC, EXEC_END):
            self._execs.order(order, self._handle if self._attempt is not None else None)
        elif self._attempt is not None:
            self._attempt.order(op, order)
        elif op == "cancel":
            self._end(Ended.CANCELLED, str(order.get("why") or ""))

    # the steps

    def to_its_end(self) -> Verdict:
        """Run it and finish it. Raises LeaseLost."""
        forgotten = False
        try:
            return self._finish(*self._steps())
        except Left:
            return self._leave_behind()
        except LeaseLost:
            forgotten = self._forgotten
            self._audited.ended("fenced", "", "its lease was lost")
            raise
        finally:
            if self._keeping is not None:
                self._keeping.close()
            self._renewal.stop()
            self._parts.orders.stop()
            self._execs.close()
            self._publisher.close()
            if self._clean_up() and forgotten:
                self._restoring.as_queued(self._sure)

    def _leave_behind(self) -> Verdict:
        """The lease and the keeper's patience last until a successor may be there."""
        self._renewal.stop()
        self._publisher.close()  # what it could not send is still with the keeper
        assert self._handle is not None  # noqa: S101 - else nothing could be left
        sent, ttl_ms = time.monotonic(), round(self._away * 1000)
        try:
            self._parts.records.leases.renew(self._claim.lease, ttl_ms)
            self._handle.beat(local_deadline(sent, ttl_ms))
        except (redis.RedisError, KeeperError) as error:
            log.warning("attempt.left_briefly attempt=%s error=%s", self._id, error)
        log.info("attempt.left attempt=%s away=%g", self._id, self._away)
        self._handle.detach()
        self._handle = None
        self._is_left = True
        return Dropped(why="it goes on, and the next supervisor of the slot with it")

    def _lasts(self) -> None:
        """It takes its time, so its lease is renewed from now on, and orders are heard."""
        if not self._lasting:
            self._lasting = True
            self._renewal.start()
            self._parts.orders.listen(self._id.job_id, self)

    def _steps(self) -> tuple[Outcome, Mapping[str, Any]]:
        """Everything up to the outcome; and, of a success, its result."""
        try:
            job = JobConfig.parse(self._claim.spec)
            if self._heir is None:
                self._start(job, self._planning.plan(job))
            else:
                self._go_on(self._heir)
            exit_ = self._watch(job)
            return self._judge(job, exit_)
        except _Ended:
            ended, why = self._early or (Ended.SHUTDOWN, "")
            return decide(Evidence(exit=ExitStatus(code=None), ended=ended, why=why)), {}
        except TurnedAway as away:
            return away.outcome, {}
        except InvalidJob as error:
            return TurnedAway.rejected(FailureReason.USER_ERROR, str(error)).outcome, {}
        except RuntimeUnavailable as error:
            log.warning("attempt.unstarted attempt=%s error=%s", self._id, error)
            self._uncertain = isinstance(error, StartUncertain)
            self._parts.engines.doubt()
            return TurnedAway.by_runtime(error, self._claim.handed_back_everywhere).outcome, {}
        except (LeaseLost, Left):
            raise
        except Exception as error:  # a fault of ours must not cost the job its record
            log.exception("attempt.broken attempt=%s", self._id)
            message = f"{type(error).__name__}: {error}"
            return (
                Outcome(
                    state=JobState.FAILED,
                    reason=FailureReason.INTERNAL,
                    message=message,
                    retry=True,
                ),
                {},
            )

    def _start(self, job: JobConfig, plan: LaunchPlan) -> None:
        self._check()
        planned = self._planning
        launcher, admitted, picked = planned.launcher, planned.admitted, planned.picked
        assert launcher is not None and admitted is not None  # noqa: S101, PT018 - plan has set it
        self._audited.starts(job, plan, admitted, picked)
        began = time.monotonic()
        self._handle = launcher.runtime.start(plan, self._renewal.deadline)
        self._note = Note(
            lease=self._claim.lease,
            began=began,
            output=plan.output,
            devices=plan.grant.devices,
            about=planned.how(),
            started={
                "mode": admitted.mode,
                "devices": plan.grant.devices,
                "image": picked.reference,
                "image_id": picked.id,
                "digest": picked.digest,
                "note": picked.note,
                "sandbox": launcher.report(self._handle),
            },
        )
        remember(plan.state, self._note)
        planned.release()  # the keeper holds it from here on
        self._publisher.state(events.Started(**self._note.started), state=JobState.RUNNING)

    def _go_on(self, heir: Heir) -> None:
        """Nothing is started; what its supervisor may have had no time to say is said."""
        self._lasts()
        self._saved()  # what was reported before, its supervisor may have had no time to send
        if heir.adopted is not None and heir.adopted.state is JobState.STARTING:
            started = events.Started(**_tuples(heir.note.started))
            self._publisher.state(started, state=JobState.RUNNING)

    def _watch(self, job: JobConfig) -> ExitStatus:
        assert self._handle is not None  # noqa: S101 - _start has set it
        place = self._parts.paths.attempt(self._id)
        values = secret_files.read(place).values() if job.secrets else ()
        self._mask = self._execs.mask = Mask(values) if values else None
        timeouts = self._parts.config.timeouts
        self._attempt = Attempt(
            job=job,
            handle=self._handle,
            publisher=self._publisher,
            patience=Patience(
                timeout=effective_timeout(job, self._parts.config) or 0.0,
                stall=job.stall_timeout_seconds or 0.0,
                grace=timeouts.stop_grace,
            ),
            started=self._delivery.started,
            progress=self._delivery.progress,
            lasts=self._lasts,
            saved=self._saved,
            **self._where_it_was(job),
        )
        if self._fenced:
            self._attempt.lost()
        elif self._early is not None:
            self._attempt.end(*self._early)
        self._watch_devices(job, self._attempt)
        try:
            return self._attempt.watch()
        finally:
            if self._devices is not None:
                self._devices.stop()

    def _saved(self) -> None:
        if self._keeping is not None:
            self._keeping.saved()

    def _watch_devices(self, job: JobConfig, attempt: Attempt) -> None:
        devices = self._note.devices if self._note is not None else ()
        if devices:
            self._devices = DeviceWatch(
                self._parts.inventory,
                devices,
                self._id,
                attempts=self._parts.paths.attempts,
                limit_mb=promised_mb(self._parts, job),
                drained=self._parts.pool.health.drained,
                end=attempt.end,
                tell=self._publisher.offer,
            )
            self._devices.start()

    def _where_it_was(self, job: JobConfig) -> dict[str, Any]:
        """What reads the output of an attempt; and where that goes on, if it runs already."""
        if self._heir is None or self._heir.adopted is None:
            return {"decoder": Decoder(self._id.job_id, job.epochs, mask=self._mask)}
        before = self._heir.adopted
        return {
            "decoder": Decoder(
                self._id.job_id,
                job.epochs,
                left=self._reading,
                progress=_progress(before.progress),
                mask=self._mask,
            ),
            "began": self._heir.note.began,
            "paused": before.state is JobState.PAUSED,
        }

    def _judge(self, job: JobConfig, exit_: ExitStatus) -> tuple[Outcome, Mapping[str, Any]]:
        attempt, note = self._attempt, self._note
        assert attempt is not None and note is not None  # noqa: S101, PT018 - _start has set it
        if self._fenced:
            raise LeaseLost(str(self._id))
        if self._mask is not None:
            exit_ = replace(exit_, error=self._mask.text(exit_.error))
        return judge(
            job,
            exit_,
            attempt,
            note,
            publisher=self._publisher,
            supplies=self._supplies,
            used={} if self._devices is None else self._devices.totals(),
            about={
                "node": self._parts.place.node,
                "slot": self._parts.place.slot,
                "attempt": self._claim.attempt,
                "seconds": round(time.monotonic() - self._began, 3),
            },
        )

    def _check(self) -> None:
        if self._fenced:
            raise LeaseLost(str(self._id))
        if self._early is not None:
            raise _Ended

    # the end

    def _finish(self, outcome: Outcome, result: Mapping[str, Any]) -> Verdict:
        """Write the end, or give the job back. Raises LeaseLost."""
        if outcome.retry and self._may_live() and not self._fenced and not self._remove():
            # another attempt would run beside it: whoever keeps time gives the job to the next one
            log.error("attempt.resists attempt=%s why=its lease runs out first", self._id)
            self._publisher.close()
            self._audited.ended("left to its lease", str(outcome.reason or ""), outcome.message)
            return Dropped(why="something of the attempt could not be ended")
        if self._keeping is not None and outcome.retry and self._attempt and not self._fenced:
            self._keeping.last()  # whoever takes the job next shall find it
        left = self._publisher.close()
        if self._fenced or self._publisher.lost:
            raise LeaseLost(str(self._id))
        verdict = self._ending.write(outcome, result, left)
        state = "queued again" if outcome.retry else str(outcome.state)
        self._audited.ended(state, str(outcome.reason or ""), outcome.message)
        if not isinstance(verdict, Dropped):  # it will not run again: its checkpoints can go
            self._parts.checkpoints.drop(self._id.job_id)
            if self._keeping is not None:
                self._keeping.drop()
        return verdict

    def _remove(self) -> bool:
        """Whether no process of the attempt is left, nor its state. May be called again."""
        if self._uncertain:
            return False  # the node settles what it is, once that can be
        try:
            if self._handle is not None:
                self._handle.remove()
        except (KeeperError, OSError) as error:
            log.error("attempt.unremoved attempt=%s error=%s", self._id, error)
            return False
        return True

    def _may_live(self) -> bool:
        """Whether nobody has seen that all processes of the attempt have ended."""
        if self._handle is None:
            return self._uncertain
        return self._handle.status() is not Status.EXITED

    def _clean_up(self) -> bool:
        """Nothing of the attempt stays: no process, no grant, no directory but checkpoints. Whether
        that is so."""
        if self._is_left:
            return False
        removed = self._remove()
        self._planning.release()
        if self._note is not None and self._note.devices:
            self._parts.pool.reap()  # what it used is counted as of now
        if not removed:
            return False  # somebody else may have it by now, and its directories with it
        place = self._parts.paths.job(self._id.job_id)
        if not os.path.lexists(place):  # the job is over: all that it had here is gone
            return True
        shutil.rmtree(place / f"output-{self._id.fence}", ignore_errors=True)
        self._parts.checkpoints.drop_empty(self._id.job_id)
        return True


def _tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an event as they were before they were JSON."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}


def _progress(said: Mapping[str, Any]) -> events.Progress | None:
    """The last progress that the record knows of."""
    try:
        return events.Progress(**{k: v for k, v in said.items() if k != "type"})
    except TypeError:  # there was none, or another version has said it
        return None
