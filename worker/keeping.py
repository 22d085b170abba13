"""Sends the checkpoints of a running attempt to the store, and removes them when the job is over.

Each checkpoint that the job reports is due to be sent: the newest only, not more often than
`storage.checkpoints_every` says, from a copy, on a thread of its own. The job waits for nothing,
and nothing of this can fail it: what cannot be sent is said in the node's log, and tried again.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable
from typing import Any

import redis

from tasks.errors import LeaseLost, RecordGone, UnknownJob
from tasks.record import Records
from tasks.recorded import Lease
from tasks.sent import Sent, SentCheckpoints
from worker.binding import UNBOUND, Binding
from worker.checkpoints import Checkpoints, Mark
from worker.crew import one_off
from worker.resuming import Resuming
from worker.store.policy import LAST_CHECKPOINT_S, Policy
from worker.store.refusals import StoreError
from worker.store.saved import SavedCheckpoints
from worker.store.send import Waiting
from worker.store.snapshot import Camera

log = logging.getLogger(__name__)


class _Stopped(Exception):
    """Nobody wants it any more."""


class Keeping:
    """Of one attempt. `saved` may come from any thread; the rest is its supervisor's."""

    def __init__(
        self,
        store: SavedCheckpoints,
        index: SentCheckpoints,
        checkpoints: Checkpoints,
        records: Records,
        lease: Lease,
        policy: Policy,
        bound: str = UNBOUND,
    ) -> None:
        """``bound``: to what the checkpoints of an attempt that runs already are; see `bring`."""
        self._store = store
        self._index = index
        self._checkpoints = checkpoints
        self._records = records
        self._lease = lease
        self._policy = policy
        self._every = policy.checkpoints_every
        self._waiting = Waiting(stall=policy.stall, check=self._check)
        self._bind(bound)
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._due = False
        self._hurry = False
        self._stop = False
        # of the thread alone
        self._begun = False
        self._there: set[str] = set()
        """What this attempt has put there."""
        self._old: set[str] = set()
        """What is there, and in no snapshot that anybody may want."""
        self._newest: frozenset[str] = frozenset()

    def bring(
        self,
        binding: Binding,
        sure: Callable[[Callable[[], Any]], Any],
        lasts: Callable[[], None],
        check: Callable[[], None],
    ) -> bool:
        """What an earlier attempt has sent: see `Resuming.bring`. From here on it is what
        ``binding`` has that is sent."""
        self._bind(binding.name)
        resuming = Resuming(self._store, self._index, self._checkpoints)
        return resuming.bring(self._lease, binding, sure=sure, lasts=lasts, check=check)

    def saved(self) -> None:
        """The job reports a checkpoint."""
        with self._changed:
            self._due = True
            self._changed.notify()
            if self._thread is None and not self._stop:
                self._thread = threading.Thread(target=self._run, name="keeping", daemon=True)
                self._thread.start()

    def last(self) -> None:
        """The attempt is over, and another follows: what it left is sent now, within bounds."""
        with self._changed:
            self._hurry = True
        self.saved()
        if self._thread is not None:
            self._thread.join(LAST_CHECKPOINT_S)
            if self._thread.is_alive():
                log.warning("checkpoint.last_not_sent attempt=%s", self._attempt)
        self.close()

    def close(self) -> None:
        """Send nothing more. Safe to call twice."""
        with self._changed:
            self._stop = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def drop(self) -> None:
        """The job is over: remove what is there, on a thread that nobody waits for. What that does
        not get to, some node's sweep does."""
        self.close()
        try:
            mine = self._index.store_of(self._lease.job_id) == self._store.id
        except redis.RedisError:
            return
        if mine:
            one_off(self._remove, "keeping-removes")

    def _bind(self, bound: str) -> None:
        job_id, policy = self._lease.job_id, self._policy
        self._bound = bound
        self._staging = self._checkpoints.paths.job(job_id) / f"copying-{bound}"
        self._camera = Camera(
            self._checkpoints.of(job_id, bound),
            self._staging,
            most_bytes=policy.output_bytes,
            keep_free=policy.keep_free,
            check=self._check,
        )

    # the thread

    def _run(self) -> None:
        nothing_before = 0.0
        while True:
            with self._changed:
                while not self._stop and not self._hurry:
                    left = nothing_before - time.monotonic()
                    if self._due and left <= 0:
                        break
                    self._changed.wait(left if self._due else None)
                if self._stop or not self._due:
                    return
                self._due = False
            begun = time.monotonic()
            sent = self._send()
            ended = time.monotonic()
            nothing_before = ended + max(self._every, ended - begun)
            if not sent and not self._hurry:
                self.saved()

    def _send(self) -> bool:
        """Whether nothing is left to be sent."""
        try:
            self._copy_and_send()
        except (StoreError, redis.RedisError, RecordGone, OSError) as error:
            log.warning("checkpoint.unsent attempt=%s error=%s", self._attempt, error)
            return False
        except (_Stopped, LeaseLost) as why:
            if isinstance(why, LeaseLost):
                self._outlived()
            with self._changed:
                self._stop = True
        except Exception:  # a fault of ours must not end what sends the next one
            log.exception("checkpoint.broken attempt=%s", self._attempt)
            return False
        finally:
            shutil.rmtree(self._staging, ignore_errors=True)
        return True

    def _copy_and_send(self) -> None:
        job_id, bound = self._lease.job_id, self._bound
        began = time.monotonic()
        if not self._begun:
            self._index.begin(self._lease, self._store.id)
            self._old = set(self._checkpoints.mark(job_id, bound).names)
            self._begun = True
        snapshot = self._camera.take(self._there)
        if snapshot is None or snapshot.names == self._newest:
            return
        # before the first one of its own it does not know what the newest one there consists of
        old = self._old - self._newest - snapshot.names if self._newest else set()
        self._store.send(job_id, bound, self._staging, snapshot, old, self._waiting)
        self._there = (self._there | snapshot.names) - old
        self._old = (self._old | snapshot.names) - old
        sent = Sent(
            store=self._store.id, sha256=snapshot.listing, fence=self._lease.fence, bound=bound
        )
        self._index.whole(self._lease, sent)
        self._newest = snapshot.names
        mark = Mark(fence=self._lease.fence, names=frozenset(self._old))
        self._checkpoints.write_mark(job_id, bound, mark)
        log.info(
            "checkpoint.sent attempt=%s files=%d bytes=%d fresh=%d left_out=%d seconds=%.1f",
            self._attempt,
            len(snapshot.files),
            snapshot.size,
            sum(one.size for one in snapshot.fresh),
            len(snapshot.left_out),
            time.monotonic() - began,
        )

    def _outlived(self) -> None:
        """Somebody else has the job. If it is over, nobody else knows of what came after that."""
        try:
            over = self._records.ending(self._lease.job_id).state.terminal
        except UnknownJob:
            over = True
        except redis.RedisError as error:
            log.warning("checkpoint.unknown attempt=%s error=%s", self._attempt, error)
            return
        if over and self._begun:
            self._remove()

    def _remove(self) -> None:
        job_id = self._lease.job_id
        try:
            self._store.remove(job_id, Waiting(stall=self._waiting.stall))
            self._index.removed(job_id)
        except (StoreError, redis.RedisError) as error:
            log.warning("checkpoint.unremoved job=%s error=%s", job_id, error)

    def _check(self) -> None:
        if self._stop:
            raise _Stopped

    @property
    def _attempt(self) -> str:
        return f"{self._lease.job_id}~{self._lease.fence}"
