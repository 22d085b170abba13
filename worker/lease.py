"""The lease of the attempt at hand: renewed on a thread and connection of its own.

A renewal that fails is not retried by the client: the next try comes soon, and meanwhile the
keeper's local deadline stands, so a node that Redis has given up on stops its job by itself.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Protocol

import redis

from tasks.errors import LeaseLost, RecordGone
from tasks.leases import Leases
from tasks.recorded import Lease
from tasks.recorded import Renewal as RenewedLease
from worker.crew import Crew, one_off

log = logging.getLogger(__name__)

_MARGIN = 0.1
"""Part of the TTL by which the local deadline comes before Redis's: clocks run at unequal pace."""
_AGAIN_S = 0.5
_FIRST_S = 1.0
"""When the lease is renewed first: a cancel that came just before anybody listened is seen then."""


def local_deadline(sent: float, ttl_ms: int) -> float:
    """Until when a lease that was asked for at ``sent`` surely holds (time.monotonic())."""
    return sent + ttl_ms / 1000 * (1 - _MARGIN)


def ttl_for(seconds: float) -> int:
    """The TTL, in ms, of a lease that surely holds for ``seconds``: see `local_deadline`."""
    return math.ceil(seconds * 1000 / (1 - _MARGIN))


class LeaseListener(Protocol):
    """Who is told what becomes of the lease. Called from the renewing thread."""

    def renewed(self, deadline: float) -> None:
        """It holds until ``deadline`` (time.monotonic())."""
        ...

    def lost(self) -> None:
        """It is somebody else's. Nothing more is renewed."""
        ...

    def forgotten(self) -> None:
        """Redis has lost the record, and the lease had run out by then: as `lost`, but it may be
        nobody's."""
        ...

    def restore(self) -> None:
        """Redis has lost the record, or the claim: write it again.

        Raises LeaseLost, redis.RedisError.
        """
        ...

    def cancel_asked(self, why: str) -> None:
        """The record says that the job shall be cancelled. May be called again and again."""
        ...


class Renewal:
    """Renews a lease every third of its TTL until it is stopped or lost."""

    def __init__(
        self,
        leases: Leases,
        lease: Lease,
        ttl_ms: int,
        listener: LeaseListener,
        claimed: float,
        *,
        crew: Crew = one_off,
    ) -> None:
        """``claimed``: time.monotonic() just before the claim was sent. ``crew``: where the
        thread comes from."""
        self._leases = leases
        self._lease = lease
        self._ttl_ms = ttl_ms
        self._listener = listener
        self._stopped = False
        self._bell = threading.Event()
        self.deadline = self._deadline_from(claimed)
        self._crew = crew
        self._join: Callable[[], None] | None = None

    def start(self) -> None:
        """Begin to renew."""
        self._join = self._crew(self._run, "lease")

    def stop(self) -> None:
        """No renewal is under way once this returns."""
        self._stopped = True
        self._bell.set()
        if self._join is not None:
            self._join()

    def last(self, ttl_ms: int) -> float:
        """Once more, after `stop`, for so long; until when it surely holds then.

        Raises LeaseLost, redis.RedisError.
        """
        sent = time.monotonic()
        try:
            self._renew(sent, ttl_ms)
        except RecordGone:
            self._listener.forgotten()
            raise
        return local_deadline(sent, ttl_ms)

    def soon(self) -> None:
        """Renew now, which brings what the record says."""
        self._bell.set()

    def _deadline_from(self, sent: float) -> float:
        return local_deadline(sent, self._ttl_ms)

    def _renew(self, sent: float, ttl_ms: int) -> RenewedLease:
        try:
            return self._leases.renew(self._lease, ttl_ms)
        except RecordGone:
            if sent >= self.deadline:
                raise  # somebody else may have been given it before Redis forgot
            self._listener.restore()
            return self._leases.renew(self._lease, ttl_ms)

    def _run(self) -> None:
        wait = min(_FIRST_S, self._ttl_ms / 3000)
        while True:
            self._bell.wait(wait)
            self._bell.clear()
            if self._stopped:
                return
            sent = time.monotonic()
            try:
                renewal = self._renew(sent, self._ttl_ms)
            except RecordGone:
                log.warning(
                    "lease.forgotten job=%s fence=%d", self._lease.job_id, self._lease.fence
                )
                self._listener.forgotten()
                return
            except LeaseLost:
                log.warning("lease.lost job=%s fence=%d", self._lease.job_id, self._lease.fence)
                self._listener.lost()
                return
            except redis.RedisError as error:
                log.warning("lease.unrenewed job=%s error=%s", self._lease.job_id, error)
                wait = min(_AGAIN_S, self._ttl_ms / 6000)
                continue
            wait = self._ttl_ms / 3000
            self.deadline = self._deadline_from(sent)
            self._listener.renewed(self.deadline)
            if renewal.cancel:
                self._listener.cancel_asked(renewal.cancel)
