"""What Celery is told of a job whose message this worker could not claim."""

from __future__ import annotations

import json
from typing import Any

from tasks.executor import Cancelled, Dropped, Failed, Succeeded, Verdict
from tasks.recorded import NotClaimed
from tasks.state import FailureReason, JobState


def of_record(claim: NotClaimed) -> Verdict:
    """The verdict for a job that is somebody else's, or over.

    A job that is over is told again only if Celery's result of it was never stored: a chain or
    chord would count a second telling as a second job.
    """
    if not claim.state.terminal or claim.result_stored:
        return Dropped(why=claim.why)
    match claim.state:
        case JobState.SUCCEEDED:
            return _succeeded(claim.result)
        case JobState.CANCELLED:
            return Cancelled(message=claim.message)
        case JobState.FAILED | JobState.REJECTED:
            return Failed(
                reason=claim.reason,
                message=claim.message,
                rejected=claim.state is JobState.REJECTED,
            )
        case _:
            return Dropped(why=claim.why)


def _succeeded(text: str) -> Verdict:
    try:
        result: Any = json.loads(text or "{}")
    except (ValueError, RecursionError):
        result = None
    if not isinstance(result, dict):
        return Failed(
            reason=FailureReason.INTERNAL,
            message="the job's result in its record is none that this project has written",
        )
    return Succeeded(result=result)
