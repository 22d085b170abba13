"""An attempt's hold on its job: its lease is renewed, its events are published, its record is kept
where Redis is, and what is asked of it is heard.

All of that goes on beside the steps of the attempt, on other threads. What these find out is told
to the attempt if it runs; before that, it stands here for the next `Holding.check`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from tasks.errors import LeaseLost, RecordGone
from tasks.exec_request import EXEC, EXEC_END
from tasks.recorded import Claimed
from tasks.seals import Sealer
from worker.attempt import Attempt
from worker.execs import Execs
from worker.heirs import Heir
from worker.lease import Renewal, ttl_for
from worker.outcome import Ended
from worker.parts import NodeParts
from worker.plan import AttemptId
from worker.restoring import Restoring
from worker.runtimes.base import Handle
from worker.stream.publisher import Publisher

_HEARD_AT_ONCE_S: Final = 0.5
_LEAVE_WITHIN_S = 3.0
_GONE_AGAIN_S: Final = 0.2


class EndedEarly(Exception):
    """Cancelled or shut down before anything was started."""


class Holding:
    """Of one attempt; a `LeaseListener` and an `OrderListener`. `end` may come from any thread or a
    signal handler."""

    def __init__(
        self,
        parts: NodeParts,
        claim: Claimed,
        claimed: float,
        until_redis_answers: Callable[[Callable[[], Any]], Any],
        *,
        queue: str,
        began: float,
        execs: Execs,
        sealer: Sealer | None,
        heir: Heir | None,
    ) -> None:
        """``claimed``: time.monotonic() just before the claim was sent. ``queue``: where the
        message came from. ``began``: time.monotonic() at the attempt's beginning."""
        self.early: tuple[Ended, str] | None = None
        """Why the attempt shall end, or ends; the first reason that was given."""
        self.fenced = False
        """The job is somebody else's, or may be."""
        self.is_forgotten = False
        """… and perhaps nobody's: Redis had lost the record, and the lease had run out."""
        self._parts = parts
        self._id = AttemptId(job_id=claim.lease.job_id, fence=claim.lease.fence)
        self._sure = until_redis_answers
        self._began = began
        self._execs = execs
        self._attempt: Attempt | None = None
        self._handle: Handle | None = None
        self._lasting = False
        before = None if heir is None else heir.adopted
        self.publisher = Publisher(
            parts.records.leases,
            claim.lease,
            on_lost=self.lost,
            crew=parts.crew,
            batch=0 if before is None else before.batch,
            left=None if heir is None else heir.reading,
            hold=heir is None,
            sealer=sealer,
        )
        self._renewal = Renewal(
            parts.records.leases,
            claim.lease,
            parts.settings.lease_ttl_ms,
            self,
            claimed,
            crew=parts.crew,
        )
        self.publisher.on_gone = self._renewal.soon
        self._restoring = Restoring(parts, claim, queue, self.publisher, sealer)

    # the supervisor's thread

    @property
    def deadline(self) -> float:
        """Until when the lease surely holds (time.monotonic())."""
        return self._renewal.deadline

    def lasts(self) -> None:
        """It takes its time, so its lease is renewed from now on, and orders are heard."""
        if not self._lasting:
            self._lasting = True
            self._renewal.start()
            self._parts.orders.listen(self._id.job_id, self)

    def check(self) -> None:
        """Raises LeaseLost, and EndedEarly: it is to end."""
        if self.fenced:
            raise LeaseLost(str(self._id))
        if self.early is not None:
            raise EndedEarly

    def until_there_is_a_record(self, ask: Callable[[], Any]) -> Any:
        """Ask until Redis answers, and has the record of the job. Raises LeaseLost."""
        while True:
            try:
                return self._sure(ask)
            except RecordGone:
                if self.fenced:
                    raise
                self.lasts()  # a short job has had no renewal so far
                self._renewal.soon()  # which restores it, or finds that it may not
                time.sleep(_GONE_AGAIN_S)

    def attach(self, attempt: Attempt, handle: Handle) -> None:
        """It runs: tell it what there is to tell from now on, and what was told before."""
        self._handle = handle
        self._attempt = attempt
        if self.fenced:
            attempt.lost()
        elif self.early is not None:
            attempt.end(*self.early)

    def outlast(self, away: float) -> float:
        """Stop here, and hold the lease for ``away`` seconds more at least; until when it surely
        holds then (time.monotonic()).

        Raises LeaseLost, redis.RedisError.
        """
        self._handle = None  # and nothing begins beside it
        self._renewal.stop()
        try:
            return self._renewal.last(ttl_for(away))  # first: it restores a record that is gone
        finally:
            self.publisher.leave(_LEAVE_WITHIN_S)

    def close(self) -> None:
        """Nothing goes on beside it any more. Safe to call twice."""
        self._renewal.stop()
        self._parts.orders.stop()
        self._execs.close()
        self.publisher.close()

    def queue_again(self) -> None:
        """Nothing is left of the attempt, and `is_forgotten` says that the job may be nobody's."""
        self._restoring.as_queued(self._sure)

    # told by the lease's thread, the orders' thread and the publisher

    def renewed(self, deadline: float) -> None:
        """The lease holds until ``deadline``."""
        if self._attempt is not None:
            self._attempt.renewed(deadline)

    def lost(self) -> None:
        """The job is somebody else's."""
        self.fenced = True
        self.publisher.give_up()
        if self._attempt is not None:
            self._attempt.lost()

    def forgotten(self) -> None:
        """Redis has lost the record of the job, which may be somebody else's by now."""
        # after longer than records of ended jobs stay, it may be that the job has ended elsewhere
        known_until = self._renewal.deadline + self._parts.records.terminal_ttl_s
        self.is_forgotten = time.monotonic() < known_until
        self.lost()

    def restore(self) -> None:
        """Redis has lost the record of the job, which runs: it is written again."""
        self._restoring.as_running()

    def cancel_asked(self, why: str) -> None:
        """The record says that the job shall be cancelled."""
        self.end(Ended.CANCELLED, why)

    def listening(self) -> None:
        """Orders are heard, so it may be told that it runs: what was asked before stands in the
        record."""
        self.publisher.begin()
        if time.monotonic() - self._began > _HEARD_AT_ONCE_S:
            self._renewal.soon()  # else its first renewal, which is near, finds it

    def order(self, op: str, order: Mapping[str, Any]) -> None:
        """Something is asked of the attempt."""
        if op in (EXEC, EXEC_END):
            self._execs.order(order, self._handle)
        elif self._attempt is not None:
            self._attempt.order(op, order)
        elif op == "cancel":
            self.end(Ended.CANCELLED, str(order.get("why") or ""))

    def end(self, ended: Ended, why: str) -> None:
        """The attempt shall end, for this reason unless there is one already."""
        self.early = self.early or (ended, why)
        if self._attempt is not None:
            self._attempt.end(ended, why)
