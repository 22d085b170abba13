"""What a producer may ask of a job after it is submitted."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from tasks.errors import CyxWizError
from tasks.state import JobState

if TYPE_CHECKING:
    from tasks.publishing import JobCelery


class Ask(StrEnum):
    """What can be asked of a running attempt."""

    PAUSE = "pause"
    RESUME = "resume"
    CHECKPOINT = "checkpoint"


TRIES: Final = 10
AGAIN_S: Final = 0.2
"""A job is told to run a moment before its node hears orders for it."""

_OBEY: Final = frozenset({JobState.RUNNING, JobState.PAUSED})


class NotRunning(CyxWizError):
    """Nobody runs the job now, so nobody can do what was asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CancelResult:
    """What became of the wish."""

    job_id: str
    state: JobState
    """cancelled: it was queued, and is over. A running state: its node was asked, and will."""
    changed: bool
    """False: the job had ended before."""


def cancel(job_id: str, why: str = "", *, app: JobCelery | None = None) -> CancelResult:
    """Cancel a job, queued or running. May be said again; final even if no worker is up.

    ``why``: for people; at most 1,000 characters are kept.

    Raises UnknownJob, RedisUnavailable.
    """
    from tasks.publishing import reachable
    from tasks.telling import tell

    app = _app(app)
    with reachable(app.hub):
        changed, state = app.records.cancel(job_id, why[:1000])
        if changed and state is JobState.CANCELLED:
            # no worker will ever run it to write this, and .get() shall not wait for one
            tell(app, job_id)
    return CancelResult(job_id=job_id, state=state, changed=changed)


def ask(job_id: str, what: Ask, *, app: JobCelery | None = None) -> None:
    """Ask something of the attempt that runs now.

    Raises UnknownJob, NotRunning, RedisUnavailable.
    """
    from tasks.publishing import reachable

    app = _app(app)
    with reachable(app.hub):
        for left in reversed(range(TRIES)):
            record = app.records.get(job_id)
            # one that is starting would not obey, and one that has just ended may still listen
            heard = record.state in _OBEY and app.records.client.publish(
                app.hub.keys.control(record.node, job_id), json.dumps({"op": str(what)})
            )
            if heard or record.state not in _OBEY or not left:
                break
            time.sleep(AGAIN_S)
    if not heard:
        raise NotRunning(f"job {job_id} is {record.state}: only a running job can {what}")


def _app(app: Any) -> JobCelery:
    if app is not None:
        found: JobCelery = app
        return found
    from tasks.celery import app as default

    the_app: JobCelery = default
    return the_app
