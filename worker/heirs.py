"""Attempts that run on although the supervisor that started them is dead: kept for its successor.

The pool's new child finds them through the node's state directory. It takes the lease over (the
fence stays, the owner changes, so whatever the predecessor may still say is refused), beats the
keeper, and has the job's message published again to the slot's own queue. With that message the
attempt goes on as if nothing had happened: see `worker.run`. One that cannot go on is ended.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Final

import redis

from tasks.errors import KeeperError, LeaseLost
from tasks.recorded import Adopted
from tasks.routing import slot_queue
from worker.lease import local_deadline, ttl_for
from worker.leftovers import Leftovers
from worker.note import Note, remember
from worker.parts import NodeParts
from worker.runtimes.base import Handle
from worker.stream.reading import Reading

log = logging.getLogger(__name__)

_MOST_TIMES: Final = 50
"""That an attempt may be taken over: one that kills its supervisor would go on for ever."""
_AGAIN_S: Final = 0.5
_SUMMON_AGAIN_S: Final = 5.0


class Heir:
    """One such attempt. A thread keeps its lease until `take`."""

    def __init__(
        self,
        parts: NodeParts,
        directory: Path,
        note: Note,
        handle: Handle,
        end: Callable[[Heir], None],
    ) -> None:
        """``note``: with the new owner. ``end``: called, once, if the attempt cannot go on."""
        self.directory = directory
        self.note = note
        self.handle = handle
        self.adopted: Adopted | None = None
        self.renewed = 0.0
        """time.monotonic() just before the lease was renewed last."""
        self._parts = parts
        self._end = end
        self._summoned: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heir", daemon=True)

    @property
    def job_id(self) -> str:
        return self.note.lease.job_id

    @property
    def reading(self) -> Reading | None:
        """What its last supervisor wrote down of its output; None before `secure`."""
        return None if self.adopted is None else Reading.from_json(self.adopted.reading)

    def start(self) -> None:
        """Take the lease over and have the job's message sent here."""
        self._thread.start()

    def stop(self) -> None:
        """The thread is done once this returns; the lease holds for a while longer."""
        self._stop.set()
        if self._thread is not threading.current_thread() and self._thread.ident is not None:
            self._thread.join()

    def secure(self) -> Adopted:
        """Hold the lease from now on. Raises LeaseLost, redis.RedisError."""
        return self._hold(self._parts.settings.lease_ttl_ms)

    def leave(self, away: float) -> None:
        """Nobody comes for it, for ``away`` seconds: let it go on for so long. After `stop`."""
        try:
            self._hold(ttl_for(away))
        except (LeaseLost, redis.RedisError) as error:
            log.warning("heir.left_briefly job=%s error=%s", self.job_id, error)

    def _hold(self, ttl_ms: int) -> Adopted:
        sent = time.monotonic()
        # taken over a second time it is only renewed
        self.adopted = self._parts.records.leases.adopt(
            self.note.lease, ttl_ms, former=self.note.former
        )
        self.renewed = sent
        with contextlib.suppress(KeeperError):  # then its exit says so
            self.handle.beat(local_deadline(sent, ttl_ms))
        return self.adopted

    def _run(self) -> None:
        wait = 0.0
        while not self._stop.wait(wait):
            try:
                if why := self._hopeless(self.secure()):
                    log.warning("heir.given_up job=%s why=%s", self.job_id, why)
                    self._end(self)
                    return
            except LeaseLost:
                log.info("heir.lost job=%s fence=%d", self.job_id, self.note.lease.fence)
                self._end(self)
                return
            except redis.RedisError as error:
                log.warning("heir.redis_away job=%s error=%s", self.job_id, error)
                wait = _AGAIN_S
                continue
            except Exception:  # nobody else would free the slot of it
                log.exception("heir.broken job=%s", self.job_id)
                self._end(self)
                return
            wait = min(_SUMMON_AGAIN_S, self._parts.settings.lease_ttl_ms / 3000)

    def _hopeless(self, adopted: Adopted) -> str:
        """Why it cannot go on; '' if it can, and its message is on its way."""
        if adopted.times > _MOST_TIMES:
            return f"its supervisor died {adopted.times} times"
        return "" if adopted.has_message and self._summon() else "there is no message of it"

    def _summon(self) -> bool:
        """Have the message sent, and now and then again: one may be lost on its way."""
        now = time.monotonic()
        if self._summoned is not None and now - self._summoned < _SUMMON_AGAIN_S:
            return True
        place = self._parts.place
        found = self._parts.records.leases.summon(
            self.note.lease, slot_queue(place.node, place.slot)
        )
        self._summoned = now
        log.info("heir.summoned job=%s fence=%d", self.job_id, self.note.lease.fence)
        return found


class Heirs:
    """All of one slot: at most one, unless the slot's number of devices was changed."""

    def __init__(self, parts: NodeParts, ended: Callable[[str], None]) -> None:
        """``ended``: see `worker.leftovers.Leftovers`."""
        self._parts = parts
        self._leftovers = Leftovers(parts, ended)
        self._heirs: dict[str, Heir] = {}
        self._lock = threading.Lock()

    def find(self) -> None:
        """Find what can go on, end the rest. Once, in a new child, before its first job."""
        left = self._leftovers.find()
        for runtime in self._parts.recovering():
            for handle in runtime.recover(self._parts.place.slot):
                directory = self._parts.paths.attempt(handle.attempt)
                note = left.get(directory)
                if directory not in left:
                    handle.detach()  # it came after the look
                elif note is not None and note.whole and note.lease.job_id not in self._heirs:
                    del left[directory]
                    self._keep(directory, note, handle)
                else:
                    del left[directory]
                    self._leftovers.end(directory, note, handle)
        for directory, note in left.items():
            self._leftovers.end(directory, note, None)

    def start(self) -> None:
        """Keep the leases of what goes on, and have its messages sent here: the slot takes them."""
        for heir in [*self._heirs.values()]:
            heir.start()

    @property
    def waiting(self) -> bool:
        """Whether the slot is taken: it runs an attempt whose message is still to come."""
        return bool(self._heirs)

    def take(self, job_id: str) -> Heir | None:
        """The attempt of this job, if it is here, to go on with or to `end`."""
        with self._lock:
            heir = self._heirs.pop(job_id, None)
        if heir is not None:
            heir.stop()
        return heir

    def end(self, heir: Heir) -> None:
        """It cannot go on. Never raises."""
        self._leftovers.end(heir.directory, heir.note, heir.handle)

    def close(self, away: float | None) -> None:
        """Leave them all to the next child, who comes within ``away`` seconds; None: at once."""
        while self._heirs:
            heir = self.take(next(iter(self._heirs)))
            if heir is not None:
                if away is not None:
                    heir.leave(away)
                heir.handle.detach()

    def _keep(self, directory: Path, note: Note, handle: Handle) -> None:
        place = self._parts.place
        owner = f"{place.slot}@{place.node}:{os.getpid()}:{uuid.uuid4().hex[:12]}"
        handed = note.handed_to(owner)
        remember(directory, handed)  # first, for the record may be changed and the answer lost
        self._heirs[note.lease.job_id] = Heir(self._parts, directory, handed, handle, self._drop)

    def _drop(self, heir: Heir) -> None:
        with self._lock:
            mine = self._heirs.get(heir.job_id) is heir
        if mine:
            # the slot is taken until then: what starts in it now would be found with the same grant
            self.end(heir)
            with self._lock:
                if self._heirs.get(heir.job_id) is heir:
                    del self._heirs[heir.job_id]
