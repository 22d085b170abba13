"""The end of an attempt, written: fenced, in the record first, then told to Celery."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from tasks import events
from tasks.executor import Cancelled, Dropped, Failed, Succeeded, Verdict
from tasks.record import Claimed, Records, tagged
from tasks.state import FailureReason, JobState
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
        records: Records,
        claim: Claimed,
        node: str,
        until_redis_answers: Callable[[Callable[[], Any]], Any],
    ) -> None:
        """``node``: this node's name, which a handed-back job avoids for a while."""
        self._records = records
        self._claim = claim
        self._node = node
        self._sure = until_redis_answers

    def write(self, outcome: Outcome, result: Mapping[str, Any], unsaid: Unsaid) -> Verdict:
        """Finish the job, or give it back. ``unsaid``: what must be told before the end.

        Raises LeaseLost.
        """
        return (self._requeue if outcome.retry else self._finish)(outcome, result, unsaid)

    def _finish(self, outcome: Outcome, result: Mapping[str, Any], unsaid: Unsaid) -> Verdict:
        lease = self._claim.lease
        self._sure(
            lambda: self._records.finish(
                lease,
                outcome.state,
                [*unsaid.events, tagged(_end_event(outcome, result))],
                reason=outcome.reason,
                message=outcome.message,
                result=result,
                snapshot=unsaid.snapshot,
                ran_ms=unsaid.ran_ms,
            )
        )
        log.info("job.%s job=%s reason=%s", outcome.state, lease.job_id, outcome.reason)
        if outcome.state is JobState.SUCCEEDED:
            return Succeeded(result=result)
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
        state = self._sure(
            lambda: self._records.requeue(
                self._claim.lease,
                [*unsaid.events, tagged(event)],
                reason=reason,
                message=outcome.message,
                delay_ms=delay,
                counts=outcome.counts,
                avoid_node="" if outcome.counts else self._node,
                avoid_ms=_AVOID_MS,
                snapshot=unsaid.snapshot,
                ran_ms=unsaid.ran_ms,
            )
        )
        log.info("job.requeued job=%s reason=%s state=%s", self._claim.lease.job_id, reason, state)
        if state is JobState.FAILED:
            return Failed(reason=reason, message=outcome.message)
        if state is JobState.CANCELLED:
            return Cancelled(message="cancelled")
        return Dropped(why=f"queued again: {reason}")


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
