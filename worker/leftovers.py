"""What an earlier child of this slot left running: ended, and its jobs given back at once.

The new child is the slot's owner. Until its predecessor's attempts are gone their grants are
held, and until their leases run out their jobs wait; ending both here saves that time.
"""

from __future__ import annotations

import logging
import shutil

import redis

from tasks.errors import KeeperError, LeaseLost
from tasks.events import Retrying
from tasks.record import Lease, tagged
from tasks.state import FailureReason, JobState
from worker.keeper import lock
from worker.keeper.settle import settle
from worker.lease import recall
from worker.parts import NodeParts
from worker.plan import AttemptId

log = logging.getLogger(__name__)


def end_leftovers(parts: NodeParts) -> list[str]:
    """End every attempt of this slot and give its job back. Never raises for one that resists.

    Returns the ids of the jobs that ended by it, since no attempt was left: nobody has told Celery
    of them.
    """
    ended: list[str] = []
    found = _attempts_of(parts)
    for handle in [one for runtime in parts.recovering() for one in runtime.recover()]:
        if str(handle.attempt) in found:
            try:
                handle.fence()
                handle.remove()
            except (KeeperError, OSError) as error:
                log.error("leftover.unremoved attempt=%s error=%s", handle.attempt, error)
        else:
            handle.detach()
    for name, lease in found.items():
        directory = parts.paths.attempts / name
        if directory.exists():
            settle(directory)
        shutil.rmtree(parts.paths.work / name, ignore_errors=True)
        if lease is None:
            continue
        place = parts.paths.job(lease.job_id)
        shutil.rmtree(place / f"output-{lease.fence}", ignore_errors=True)
        if _give_back(parts, lease) is not JobState.QUEUED:
            shutil.rmtree(place, ignore_errors=True)  # no attempt will want its checkpoints
            ended.append(lease.job_id)
    return ended


def _attempts_of(parts: NodeParts) -> dict[str, Lease | None]:
    """The attempts whose keeper was started for this slot, each with its lease."""
    found: dict[str, Lease | None] = {}
    for directory in parts.paths.attempts.iterdir():
        record = lock.read(directory)
        if record is not None and record.slot == parts.place.slot:
            found[directory.name] = recall(directory)
    return found


def _give_back(parts: NodeParts, lease: Lease) -> JobState:
    """The state that the job is in then; queued where that is not known."""
    message = f"the worker of slot {parts.place.slot} on {parts.place.node} died"
    reason = FailureReason.NODE_LOST
    try:
        state = parts.records.requeue(
            lease,
            [tagged(Retrying(reason=reason, message=message))],
            reason=reason,
            message=message,
            delay_ms=0,
            counts=True,
        )
        log.info("leftover.requeued attempt=%s", AttemptId(job_id=lease.job_id, fence=lease.fence))
    except (LeaseLost, redis.RedisError) as error:
        log.info("leftover.not_ours job=%s why=%s", lease.job_id, error)
        return JobState.QUEUED
    return state
