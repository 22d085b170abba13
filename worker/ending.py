"""The end of an attempt, written: fenced, in the record first, then told to Celery."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from tasks import events
from tasks.errors import InvalidJob
from tasks.executor import Cancelled, Dropped, Failed, Succeeded, Verdict
from tasks.job import JobConfig
from tasks.leases import Leases, tagged
from tasks.recorded import Claimed, ResultMeta
from tasks.seals import Sealer
from tasks.state import FailureReason, JobState
from tasks.vouching import PROOF, End, Signer
from worker.outcome import Outcome
from worker.retry import backoff_ms
from worker.stream.publisher import Unsaid

log = logging.getLogger(__name__)

_AVOID_MS: Final = 30_000
"""A job that this node handed back goes to any other node for so long."""


class Ending:
    """Writes how one attempt ended."""

    def __init__(
        self,
        leases: Leases,
        claim: Claimed,
        node: str,
        until_redis_answers: Callable[[Callable[[], Any]], Any],
        meta: Callable[[Mapping[str, Any]], ResultMeta | None] = lambda _: None,
        signer: Signer | None = None,
        sealer: Sealer | None = None,
    ) -> None:
        """``node``: this node's name, which a handed-back job avoids for a while. ``meta``: makes
        Celery's result of a success, stored in the same step: see `Delivery`. ``signer``,
        ``sealer``: sign the end, and its events."""
        self._meta = meta
        self._signer = signer
        self._sealer = sealer
        self._leases = leases
        self._claim = claim
        self._node = node
        self._sure = until_redis_answers

    def write(self, outcome: Outcome, result: Mapping[str, Any], unsaid: Unsaid) -> Verdict:
        """Finish the job, or give it back. ``unsaid``: what must be told before the end.

        Raises LeaseLost.
        """
        return (self._requeue if outcome.retry else self._finish)(outcome, result, unsaid)

    def _proof(self, end: End) -> dict[str, str]:
        """Field of the record."""
        return {} if self._signer is None else {PROOF: self._signer.proof(self._claim, end)}

    def _sealed(self, bodies: Sequence[str], batch: int) -> list[str]:
        return [*bodies] if self._sealer is None else self._sealer.seal(bodies, batch)

    def _finish(self, outcome: Outcome, result: Mapping[str, Any], unsaid: Unsaid) -> Verdict:
        lease = self._claim.lease
        bodies = self._sealed(
            [*unsaid.events, tagged(_end_event(outcome, result))], unsaid.batch + 1
        )
        end = End(
            state=str(outcome.state),
            reason=str(outcome.reason or ""),
            message=outcome.message,
            result=result or None,
        )
        snapshot = {**unsaid.snapshot, **self._proof(end)}
        meta = self._meta(result) if outcome.state is JobState.SUCCEEDED else None
        is_stored = self._sure(
            lambda: self._leases.finish(
                lease,
                outcome.state,
                bodies,
                reason=outcome.reason,
                message=outcome.message,
                result=result,
                snapshot=snapshot,
                ran_ms=unsaid.ran_ms,
                meta=meta,
            )
        )
        log.info("job.%s job=%s reason=%s", outcome.state, lease.job_id, outcome.reason)
        if outcome.state is JobState.SUCCEEDED:
            return Succeeded(result=result, is_stored=is_stored)
        if outcome.state is JobState.CANCELLED:
            return Cancelled(message=outcome.message)
        return Failed(
            reason=outcome.reason or FailureReason.INTERNAL,
            message=outcome.message,
            rejected=outcome.state is JobState.REJECTED,
        )

    def _requeue(self, outcome: Outcome, result: Mapping[str, Any], unsaid: Unsaid) -> Verdict:
        reason = outcome.reason or FailureReason.INTERNAL
        delay = backoff_ms(self._claim.attempt) if outcome.counts else 0
        event = events.Retrying(reason=reason, message=outcome.message, delay_seconds=delay / 1000)
        # the last event is replaced where no attempt is left, so it has a seal of its own
        said = self._sealed(unsaid.events, unsaid.batch + 1)
        last = unsaid.batch + (2 if said else 1)
        said += self._sealed([tagged(event)], last)
        failed = events.Failed(reason=reason, message=outcome.message)
        (instead,) = self._sealed([tagged(failed)], last)
        snapshot = dict(unsaid.snapshot)
        if outcome.counts and self._is_last:
            snapshot |= self._proof(
                End(state=str(JobState.FAILED), reason=str(reason), message=outcome.message)
            )
        state = self._sure(
            lambda: self._leases.requeue(
                self._claim.lease,
                said,
                reason=reason,
                message=outcome.message,
                delay_ms=delay,
                counts=outcome.counts,
                avoid_node="" if outcome.counts else self._node,
                avoid_ms=_AVOID_MS,
                snapshot=snapshot,
                ran_ms=unsaid.ran_ms,
                failed=instead,
            )
        )
        log.info("job.requeued job=%s reason=%s state=%s", self._claim.lease.job_id, reason, state)
        if state is JobState.FAILED:
            return Failed(reason=reason, message=outcome.message)
        if state is JobState.CANCELLED:
            return Cancelled(message="cancelled")
        return Dropped(why=f"queued again: {reason}")

    @property
    def _is_last(self) -> bool:
        """Whether the record, too, says that no attempt is left."""
        try:
            return self._claim.attempt >= JobConfig.parse(self._claim.spec).max_attempts
        except InvalidJob:
            return False


def _end_event(outcome: Outcome, result: Mapping[str, Any]) -> events.Event:
    reason = outcome.reason or ""
    match outcome.state:
        case JobState.SUCCEEDED:
            return events.Succeeded(result=result)
        case JobState.CANCELLED:
            return events.Cancelled(message=outcome.message)
        case JobState.REJECTED:
            return events.Rejected(reason=reason, message=outcome.message)
        case _:
            return events.Failed(reason=reason, message=outcome.message)
