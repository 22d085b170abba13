"""What Celery's publishing options mean for a job; the ones that would harm it are refused.

A job's time-outs and its expiry are the node's and the record's to keep. Celery's own would end
the worker's process instead of the job, hold a message in a busy worker, or drop a message while
the record still waits for it.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from tasks.errors import InvalidJob
from tasks.job import JobConfig
from tasks.keys import PRIORITY_STEPS
from tasks.routing import QueueClass

_REFUSED: Final = {
    "countdown": "a job is queued at once",
    "eta": "a job is queued at once",
    "time_limit": "say timeout_seconds in the job's configuration",
    "soft_time_limit": "say timeout_seconds in the job's configuration",
    "exchange": "say pool in the job's configuration, or queue",
    "routing_key": "say pool in the job's configuration, or queue",
}


def check(options: Mapping[str, Any]) -> None:
    """Raise InvalidJob for options that a job cannot have."""
    for name, instead in _REFUSED.items():
        if options.get(name) is not None:
            raise InvalidJob(f"{name} is no option for a job: {instead}")


def check_headers(headers: Mapping[str, Any]) -> None:
    """As `check`, of a message that Celery has made."""
    hard, soft = headers.get("timelimit") or (None, None)
    check({"eta": headers.get("eta"), "time_limit": hard, "soft_time_limit": soft})


def with_expiry(job: JobConfig, expires: Any) -> JobConfig:
    """The job with Celery's ``expires``: seconds, a time, or its ISO form."""
    if expires is None:
        return job
    if job.expires is not None:
        raise InvalidJob(
            f"expires: the configuration says {job.expires!r} and the option {expires!r}; "
            "leave one of them out"
        )
    if job.signature is not None:
        raise InvalidJob("expires: the job is signed; say it in the configuration, then sign")
    if isinstance(expires, datetime):
        expires = (expires if expires.tzinfo else expires.replace(tzinfo=UTC)).isoformat()
    return JobConfig.parse({**job.to_wire(), "expires": expires})


def priority_step(priority: Any, default: int) -> int:
    """kombu's step for Celery's ``priority``: 0 (first) to 9; ``default`` if it is None."""
    if priority is None:
        return default
    if type(priority) is not int:
        raise InvalidJob(
            f"priority is {priority!r}; a whole number from 0 (first) to 9 is needed, or say "
            "priority in the job's configuration"
        )
    return PRIORITY_STEPS[bisect(PRIORITY_STEPS, max(0, min(9, priority))) - 1]


def queue_name(queue: Any, default: str) -> str:
    """The name of Celery's ``queue``; ``default`` if it is None. InvalidJob if no node reads it."""
    if queue is None:
        return default
    name = queue if isinstance(queue, str) else str(queue.name)
    if not name.startswith(("to.", "slot.")):
        try:
            QueueClass.from_name(name)
        except ValueError:
            raise InvalidJob(
                f"queue {name!r}: no node reads it; leave it out, or name a node's own, to.NODE"
            ) from None
    return name
