"""Gives back the job of an attempt that is gone: nobody else does until its lease runs out, and
that of a node that was stopped for a while lasts long."""

from __future__ import annotations

import logging
import queue
import threading
import time
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


def give_back(records: Records, note: Note, message: str) -> JobState | None:
    """The state that the job is in then; None if it was no more this attempt's, and is unknown.

    Raises redis.RedisError.
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
                counts=True,
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


class GivingBack:
    """In a thread of its own, for who must not wait for Redis: again and again until it is back."""

    def __init__(self, records: Records, message: str) -> None:
        self._records = records
        self._message = message
        self._notes: queue.SimpleQueue[Note] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def put(self, note: Note) -> None:
        """Its attempt is gone."""
        self._notes.put(note)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="giving-back", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            note = self._notes.get()
            while not self._given(note):
                time.sleep(_AGAIN_S)

    def _given(self, note: Note) -> bool:
        try:
            give_back(self._records, note, self._message)
        except redis.RedisError as error:
            log.warning("leftover.not_given_back job=%s error=%s", note.lease.job_id, error)
            return False
        except Exception:  # a record that is none; the others must not wait for it
            log.exception("leftover.broken job=%s", note.lease.job_id)
        return True
