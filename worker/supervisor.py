"""Takes a delivered job: claims it, and sees one attempt of it through to a verdict.

It is the node's `tasks.executor.JobExecutor`, and knows nothing of Celery. Whatever a job does,
no exception leaves it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable
from typing import TypeVar

import redis

from tasks.errors import BrokenRecord, InvalidJob, LeaseLost
from tasks.executor import Delivery, Dropped, Failed, Verdict
from tasks.job import JobConfig
from tasks.recorded import Claimed, NotClaimed
from tasks.routing import route
from tasks.state import FailureReason
from worker.heirs import Heir, Heirs
from worker.parts import NodeParts
from worker.run import Run
from worker.verdicts import of_record

log = logging.getLogger(__name__)

_AGAIN_AT_MOST_S = 5.0
_NOT_YET_S = 0.05
_T = TypeVar("_T")


class Supervisor:
    """See the module's docstring. A slot runs one job at a time, and so does this."""

    def __init__(
        self,
        parts: NodeParts,
        heirs: Heirs | None = None,
        leaving: Callable[[], float | None] = lambda: None,
        *,
        hands_back: bool = False,
    ) -> None:
        """``heirs``: attempts that an earlier child of the slot has left. ``leaving``: at a stop,
        for how many seconds the attempt at hand shall be left running; None: it shall end.
        ``hands_back``: the stop is now, so whatever comes ends and goes back."""
        self._parts = parts
        self._leaving = leaving
        self._heirs = heirs
        self._stopping = threading.Event()
        if hands_back:
            self._stopping.set()
        self._run: Run | None = None

    def execute(self, delivery: Delivery) -> Verdict:
        """Claim the job, run one attempt of it, finish it."""
        heir = self._heir_of(delivery)
        if heir is None and self._heirs is not None and self._heirs.waiting:
            return self._later(delivery)
        place = self._parts.place
        owner = f"{place.slot}@{place.node}:{os.getpid()}:{uuid.uuid4().hex[:12]}"
        if heir is not None:
            owner = heir.note.lease.owner
        sent = time.monotonic()
        try:
            claim = self.until_redis_answers(lambda: self._claim(delivery, owner))
        except BrokenRecord as error:
            return self._bury(delivery, error)
        if heir is not None and not _same(claim, heir):
            # it was lost between two renewals, and this is another claim, if it is one
            assert self._heirs is not None  # noqa: S101 - there it came from
            self._heirs.end(heir)
            heir = None
        if claim is None:
            return Failed(
                reason=FailureReason.USER_ERROR,
                message="the message holds no readable job",
                rejected=True,
            )
        if isinstance(claim, NotClaimed):
            log.info("job.not_claimed job=%s why=%s", delivery.job_id, claim.why)
            return of_record(claim)
        if heir is None:
            log.info("job.claimed job=%s fence=%d", delivery.job_id, claim.lease.fence)
        else:
            log.info("job.adopted job=%s fence=%d", delivery.job_id, claim.lease.fence)
            sent = heir.renewed
        self._run = Run(self._parts, delivery, claim, sent, self.until_redis_answers, heir)
        try:
            if self._stopping.is_set():
                self._stop(self._run)
            return self._run.to_its_end()
        except BrokenRecord as error:
            return self._bury(delivery, error)
        except LeaseLost:
            log.warning("job.fenced job=%s fence=%d", delivery.job_id, claim.lease.fence)
            return Dropped(why="the lease is somebody else's")
        finally:
            self._run = None

    def _bury(self, delivery: Delivery, error: BrokenRecord) -> Verdict:
        """Nobody can run a job whose record is none: it goes, and whoever waits for it is told."""
        log.error("job.record_broken job=%s error=%s", delivery.job_id, error)
        self.until_redis_answers(lambda: self._parts.records.upkeep.bury(delivery.job_id))
        return Failed(
            reason=FailureReason.INTERNAL,
            message="the job's record in Redis is none that this project has written",
        )

    def stored(self, job_id: str) -> None:
        """Celery has stored the job's result."""
        try:
            self._parts.records.mark_result_stored(job_id)
        except redis.RedisError as error:  # the mark only spares the reaper a repair
            log.warning("job.result_unmarked job=%s error=%s", job_id, error)

    def shutdown(self) -> None:
        """Stop the attempt at hand and hand its job back, or leave it to the next supervisor."""
        self._stopping.set()
        run = self._run
        if run is not None:
            self._stop(run)

    def _stop(self, run: Run) -> None:
        away = self._leaving()
        if away is None or not run.leave(away):
            run.shutdown()

    def _heir_of(self, delivery: Delivery) -> Heir | None:
        """The attempt of this job that runs here already, its lease held."""
        heir = None if self._heirs is None else self._heirs.take(delivery.job_id)
        if heir is None or self._heirs is None:
            return None
        try:
            self.until_redis_answers(heir.secure)
        except LeaseLost:
            self._heirs.end(heir)
            return None
        return heir

    def _later(self, delivery: Delivery) -> Verdict:
        """The slot is taken, by an attempt whose message comes: this one goes back."""
        log.info("job.not_yet job=%s", delivery.job_id)
        self.until_redis_answers(
            lambda: self._parts.records.upkeep.put_back(delivery.job_id, delivery.delivery_tag)
        )
        time.sleep(_NOT_YET_S)
        return Dropped(why="the slot's last attempt goes on")

    def until_redis_answers(self, ask: Callable[[], _T]) -> _T:
        """Ask until Redis answers. An unanswered claim or finish may have been carried out;
        both may be said twice."""
        wait = 0.1
        while True:
            try:
                return ask()
            except redis.RedisError as error:
                log.warning("redis.away error=%s again_in=%.1f", error, wait)
                time.sleep(wait)
                wait = min(wait * 2, _AGAIN_AT_MOST_S)

    def _claim(self, delivery: Delivery, owner: str) -> Claimed | NotClaimed | None:
        """The claim; None for a message without a record that holds no job."""
        found = self._try_claim(delivery, owner)
        if isinstance(found, NotClaimed) and found.why == "unknown":
            if self._is_over(delivery):
                return found
            # published by a program that does not record jobs, or Redis has lost its data: the
            # message is all there is
            if not self._record(delivery):
                return None
            found = self._try_claim(delivery, owner)
        return found

    def _try_claim(self, delivery: Delivery, owner: str) -> Claimed | NotClaimed:
        return self._parts.records.leases.claim(
            delivery.job_id,
            owner=owner,
            node=self._parts.place.node,
            slot=self._parts.place.slot,
            ttl_ms=self._parts.settings.lease_ttl_ms,
            delivery_tag=delivery.delivery_tag,
            gpus=len(self._parts.place.devices),
        )

    def _is_over(self, delivery: Delivery) -> bool:
        """The job was recorded when this was sent, and for so long ago that the record of its end
        may be gone. By Redis's clock, and the producer's."""
        if delivery.sent is None:
            return False
        records = self._parts.records
        now = int(records.client.time()[0])
        return now - delivery.sent > records.terminal_ttl_s

    def _record(self, delivery: Delivery) -> bool:
        try:
            job = JobConfig.parse(delivery.config)
            if job.job_id != delivery.job_id:
                job = job.with_job_id(delivery.job_id)
        except InvalidJob as error:
            log.error("job.unreadable job=%s error=%s", delivery.job_id, error)
            return False
        way = route(job)
        self._parts.records.submit(
            job_id=delivery.job_id,
            spec=job.canonical(),
            queue=delivery.queue or way.queue,
            priority_step=way.priority_step,
            user_id=job.user_id,
            max_attempts=job.max_attempts,
            expires_ms=0,
            message="",
        )
        return True


def _same(claim: Claimed | NotClaimed | None, heir: Heir) -> bool:
    """Whether the claim is that of the attempt that runs."""
    return isinstance(claim, Claimed) and claim.lease == heir.note.lease
