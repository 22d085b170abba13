"""Gives back the job of an attempt that is gone: nobody else does until its lease runs out, and
that of a node that was stopped for a while lasts long."""

from __future__ import annotations

import logging
import queue
import threading
import time
from dataclasses import dataclass
from typing import Final

import redis

from tasks.errors import LeaseLost, UnknownJob
from tasks.events import Retrying
from tasks.leases import tagged
from tasks.record import Records
from tasks.recorded import Lease
from tasks.state import FailureReason, JobState
from worker.note import Note

log = logging.getLogger(__name__)

_AGAIN_S: Final = 1.0


def give_back(
    records: Records, note: Note, message: str, *, counts: bool = True
) -> JobState | None:
    """The state that the job is in then; None if it was no more this attempt's, and is unknown.

    ``counts``: see `tasks.leases.Leases.requeue`. Raises redis.RedisError.
    """
    job_id = note.lease.job_id
    for owner in (note.lease.owner, *note.former):
        lease = Lease(job_id=job_id, owner=owner, fence=note.lease.fence)
        try:
            state = records.leases.requeue(
                lease,
                [tagged(Retrying(reason=FailureReason.NODE_LOST, message=message))],
                reason=FailureReason.NODE_LOST,
                message=message,
                delay_ms=0,
                counts=counts,
            )
        except LeaseLost:
            continue
        log.info("leftover.requeued attempt=%s~%d", job_id, note.lease.fence)
        return state
    log.info("leftover.not_ours job=%s", job_id)
    try:
        return records.ending(job_id).state
    except UnknownJob:
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Given:
    note: Note
    message: str
    counts: bool


class GivingBack:
    """In a thread of its own, for who must not wait for Redis: again and again until it is back."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._jobs: queue.SimpleQueue[_Given | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def put(self, note: Note, message: str, *, counts: bool = True) -> None:
        """Its attempt is gone, and ``message`` says why. ``counts``: that was an attempt."""
        self._jobs.put(_Given(note=note, message=message, counts=counts))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="giving-back", daemon=True)
            self._thread.start()

    def close(self, within: float) -> bool:
        """No more comes. Whether every job was given back in ``within`` seconds; the others wait
        for their leases to run out."""
        if self._thread is None:
            return True
        self._jobs.put(None)
        self._thread.join(within)
        if self._thread.is_alive():
            log.error("leftover.given_up why=Redis is away; their leases run out first")
            return False
        return True

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            while not self._given(job):
                time.sleep(_AGAIN_S)

    def _given(self, job: _Given) -> bool:
        job_id = job.note.lease.job_id
        try:
            give_back(self._records, job.note, job.message, counts=job.counts)
        except redis.RedisError as error:
            log.warning("leftover.not_given_back job=%s error=%s", job_id, error)
            return False
        except Exception:  # a record that is none; the others must not wait for it
            log.exception("leftover.broken job=%s", job_id)
        return True
