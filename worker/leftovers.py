"""What an earlier child of this slot left running, and nobody can go on with: ended, given back.

The new child is the slot's owner. Until its predecessor's attempts are gone their grants are
held, and until their leases run out their jobs wait; ending both here saves that time.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import redis

from tasks.errors import KeeperError
from tasks.state import JobState
from worker.giving_back import give_back
from worker.keeper import lock
from worker.keeper.settle import Settlement, end_keeper, settle
from worker.note import Note, recall
from worker.parts import NodeParts
from worker.plan import AttemptId
from worker.runtimes.base import Handle

log = logging.getLogger(__name__)


class Leftovers:
    """Ends attempts of this slot. Never raises for one that resists."""

    def __init__(self, parts: NodeParts, ended: Callable[[str], None]) -> None:
        """``ended``: told of jobs that ended by it, since no attempt was left: nobody else has
        told Celery of them."""
        self._parts = parts
        self._ended = ended

    def find(self) -> dict[Path, Note | None]:
        """The directories of the attempts whose keeper was started for this slot, and of those that
        never had one."""
        found: dict[Path, Note | None] = {}
        for directory in self._parts.paths.attempts.iterdir():
            record = lock.read(directory)
            mine = record is not None and record.slot == self._parts.place.slot
            if mine or lock.abandoned(directory):
                found[directory] = recall(directory)
        return found

    def end(self, directory: Path, note: Note | None, handle: Handle | None) -> None:
        """End one attempt and give its job back. ``handle``: if its keeper lives."""
        if handle is not None:
            try:
                handle.fence()
                handle.remove()
            except (KeeperError, OSError) as error:
                log.error("leftover.unremoved attempt=%s error=%s", handle.attempt, error)
                handle.detach()
        outcome = settle(directory).outcome
        if outcome is Settlement.ALIVE:
            # it stands still, or nobody could attach: its job may run on, and nobody keeps its time
            log.warning("leftover.keeper_killed attempt=%s", directory.name)
            end_keeper(directory)
            outcome = settle(directory).outcome
        if outcome is not Settlement.SETTLED:
            # another attempt would run beside it: its lease runs out first
            log.error("leftover.resists attempt=%s outcome=%s", directory.name, outcome)
            return
        paths = self._parts.paths
        shutil.rmtree(paths.work / directory.name, ignore_errors=True)
        if note is None:
            return
        lease = note.lease
        output = paths.output(AttemptId(job_id=lease.job_id, fence=lease.fence))
        shutil.rmtree(output, ignore_errors=True)
        state = self._give_back(note)
        if state.terminal:
            self._parts.checkpoints.drop(note.lease.job_id)  # no attempt will want them
            self._ended(note.lease.job_id)

    def _give_back(self, note: Note) -> JobState:
        """The state that the job is in then; queued where that is not known."""
        place = self._parts.place
        try:
            state = give_back(
                self._parts.records, note, f"the worker of slot {place.slot} on {place.node} died"
            )
        except redis.RedisError as error:
            log.warning("leftover.not_given_back job=%s error=%s", note.lease.job_id, error)
            return JobState.QUEUED
        return state or JobState.QUEUED
