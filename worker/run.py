"""One claimed attempt, from admission to its end. Reads in the order in which things happen."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any

import redis

from tasks import events
from tasks.errors import (
    InvalidJob,
    KeeperError,
    LeaseLost,
    RuntimeUnavailable,
    StartUncertain,
)
from tasks.executor import Delivery, Dropped, Verdict
from tasks.job import JobConfig
from tasks.recorded import Claimed
from tasks.state import FailureReason, JobState
from worker.attempt import Left
from worker.audited import Audited
from worker.binding import UNBOUND
from worker.ending import Ending
from worker.execs import Execs
from worker.heirs import Heir
from worker.holding import EndedEarly, Holding
from worker.judging import judge
from worker.note import Note, remember
from worker.outcome import Ended, Evidence, Outcome, decide
from worker.parts import NodeParts
from worker.plan import AttemptId, ExitStatus, LaunchPlan
from worker.planning import Planning
from worker.runtimes.base import Handle, Status
from worker.supplies import Supplies
from worker.turned_away import TurnedAway
from worker.watching import Watching

log = logging.getLogger(__name__)


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
        self._id = AttemptId(job_id=claim.lease.job_id, fence=claim.lease.fence)
        self._heir = heir
        self._handle: Handle | None = None if heir is None else heir.handle
        self._note: Note | None = None if heir is None else heir.note
        self._watching: Watching | None = None
        self._uncertain = False
        self._away = 0.0
        self._is_left = False
        self._began = time.monotonic()
        if heir is not None and heir.note.began is not None:
            self._began = heir.note.began
        self._audited = Audited(parts.audit, self._id, claim.attempt)
        self._execs = Execs(parts, claim, self._audited)
        sealer = parts.sealer(claim)
        holding = self._holding = Holding(
            parts,
            claim,
            claimed,
            until_redis_answers,
            queue=delivery.queue,
            began=self._began,
            execs=self._execs,
            sealer=sealer,
            heir=heir,
        )
        self._publisher = holding.publisher
        self._ending = Ending(
            parts.records.leases,
            claim,
            parts.place.node,
            holding.until_there_is_a_record,
            meta=delivery.meta,
            signer=parts.signer,
            sealer=sealer,
        )
        self._supplies = Supplies(parts.config, self._id, self._publisher, holding.check)
        self._keeping = parts.keeping(claim.lease, UNBOUND if heir is None else heir.note.bound)
        self._planning = Planning(
            parts,
            claim,
            audited=self._audited,
            publisher=self._publisher,
            supplies=self._supplies,
            keeping=self._keeping,
            until_redis_answers=holding.until_there_is_a_record,
            lasts=holding.lasts,
            check=holding.check,
        )

    def shutdown(self) -> None:
        """The node stops: end the attempt, hand the job back."""
        self._holding.end(Ended.SHUTDOWN, f"node {self._parts.place.node} stopped")

    def leave(self, away: float) -> bool:
        """The node stops for a while: the attempt goes on without this supervisor, for ``away``
        seconds. False: there is none yet."""
        if self._watching is None and self._heir is None:
            return False
        self._away = away
        if self._watching is not None:  # else `_watch` comes to it
            self._watching.attempt.leave()
        return True

    # the steps

    def to_its_end(self) -> Verdict:
        """Run it and finish it. Raises LeaseLost."""
        forgotten = False
        try:
            try:
                return self._finish(*self._steps())
            except Left:
                return self._leave_behind()
        except LeaseLost:
            forgotten = self._holding.is_forgotten
            self._audited.ended("fenced", "", "its lease was lost")
            raise
        finally:
            if self._keeping is not None:
                self._keeping.close()
            self._holding.close()
            if self._clean_up() and forgotten:
                self._holding.queue_again()

    def _leave_behind(self) -> Verdict:
        """The lease and the keeper's patience last until a successor may be there."""
        assert self._handle is not None  # noqa: S101 - else nothing could be left
        try:
            self._handle.beat(self._holding.outlast(self._away))
        except (redis.RedisError, KeeperError) as error:
            log.warning("attempt.left_briefly attempt=%s error=%s", self._id, error)
        log.info("attempt.left attempt=%s away=%g", self._id, self._away)
        self._handle.detach()
        self._handle = None
        self._is_left = True
        return Dropped(why="it goes on, and the next supervisor of the slot with it")

    def _steps(self) -> tuple[Outcome, Mapping[str, Any]]:
        """Everything up to the outcome; and, of a success, its result."""
        try:
            job = JobConfig.parse(self._claim.spec)
            if self._heir is None:
                self._start(job, self._planning.plan(job))
            else:
                self._go_on(self._heir)
            return self._judge(job, self._watch(job))
        except EndedEarly:
            ended, why = self._holding.early or (Ended.SHUTDOWN, "")
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
        self._holding.check()
        planned = self._planning
        launcher, admitted, picked = planned.launcher, planned.admitted, planned.picked
        assert launcher is not None and admitted is not None  # noqa: S101, PT018 - plan has set it
        self._audited.starts(job, planned.digest, plan, admitted, picked)
        began = time.monotonic()
        self._handle = launcher.runtime.start(plan, self._holding.deadline)
        self._note = Note(
            lease=self._claim.lease,
            began=began,
            output=plan.output,
            bound=planned.bound,
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
        self._holding.lasts()
        self._saved()  # what was reported before, its supervisor may have had no time to send
        if heir.adopted is not None and heir.adopted.state is JobState.STARTING:
            started = events.Started(**_tuples(heir.note.started))
            self._publisher.state(started, state=JobState.RUNNING)

    def _watch(self, job: JobConfig) -> ExitStatus:
        handle, note = self._handle, self._note
        assert handle is not None and note is not None  # noqa: S101, PT018 - _start has set it
        self._watching = Watching(
            self._parts,
            self._delivery,
            job,
            handle,
            note,
            holding=self._holding,
            saved=self._saved,
            heir=self._heir,
        )
        self._execs.mask = self._watching.mask
        if self._away:  # it was to be left before anybody watched it
            self._watching.attempt.leave()
        return self._watching.watch()

    def _saved(self) -> None:
        if self._keeping is not None:
            self._keeping.saved()

    def _judge(self, job: JobConfig, exit_: ExitStatus) -> tuple[Outcome, Mapping[str, Any]]:
        watching, note = self._watching, self._note
        assert watching is not None and note is not None  # noqa: S101, PT018 - _watch has set it
        if self._holding.fenced:
            raise LeaseLost(str(self._id))
        return judge(
            job,
            exit_,
            watching.attempt,
            note,
            publisher=self._publisher,
            supplies=self._supplies,
            used=watching.used(),
            about={
                "node": self._parts.place.node,
                "slot": self._parts.place.slot,
                "attempt": self._claim.attempt,
                "seconds": round(time.monotonic() - self._began, 3),
            },
        )

    # the end

    def _finish(self, outcome: Outcome, result: Mapping[str, Any]) -> Verdict:
        """Write the end, or give the job back. Raises LeaseLost."""
        if outcome.retry and self._may_live() and not self._holding.fenced and not self._remove():
            # another attempt would run beside it: whoever keeps time gives the job to the next one
            log.error("attempt.resists attempt=%s why=its lease runs out first", self._id)
            self._publisher.close()
            self._audited.ended("left to its lease", str(outcome.reason or ""), outcome.message)
            return Dropped(why="something of the attempt could not be ended")
        ran = self._watching is not None
        if self._keeping is not None and outcome.retry and ran and not self._holding.fenced:
            self._keeping.last()  # whoever takes the job next shall find it
        left = self._publisher.close()
        if self._holding.fenced or self._publisher.lost:
            raise LeaseLost(str(self._id))
        if outcome.retry:
            self._leave_nothing()  # while the job is ours: the next attempt may be on this node
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
        if self._is_followed():  # no more than what is this attempt's alone
            shutil.rmtree(place / f"output-{self._id.fence}", ignore_errors=True)
        else:
            self._leave_nothing()
        return True

    def _is_followed(self) -> bool:
        """Whether another attempt of the job has begun here: its state is what it makes first."""
        own, attempts = str(self._id), self._parts.paths.attempts.iterdir()
        return any(
            one.name.startswith(f"{self._id.job_id}~") and one.name != own for one in attempts
        )

    def _leave_nothing(self) -> None:
        """To the next attempt, but checkpoints."""
        place = self._parts.paths.job(self._id.job_id)
        shutil.rmtree(place / f"output-{self._id.fence}", ignore_errors=True)
        self._parts.checkpoints.drop_empty(self._id.job_id)


def _tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an event as they were before they were JSON."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
