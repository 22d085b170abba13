"""The job record in Redis: the truth about a job, of which its Celery message is only a hint.

Every method is one Lua script and one round trip. Redis's clock (TIME) is the only clock. Every
write on behalf of an attempt checks owner and fence first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from tasks.keys import Keys
from tasks.state import FailureReason, JobState


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """The right to run a job: who holds it, and the fencing token of that claim."""

    job_id: str
    owner: str
    fence: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Claimed:
    """The job is ours; its message is acknowledged."""

    lease: Lease
    attempt: int
    """1 for the first. A hand-back does not count."""
    spec: str
    """The job's configuration as submitted (JSON)."""
    last_reason: str
    """Why the attempt before this one ended; '' if there was none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NotClaimed:
    """Nothing to do with this message (it is acknowledged, or belongs to the owner's claim)."""

    why: str
    """busy, terminal, cancelled, expired, exhausted or avoided."""
    state: JobState
    """The record's state now."""
    result: str = ""
    """For a terminal job: its stored outcome (JSON), so that Celery's result can be mended."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Renewal:
    """The lease holds for another TTL, and what is asked of the attempt."""

    cancel: str
    """'' or why it shall be cancelled."""


class Records:
    """See the module's docstring. `redis.RedisError` passes through; nothing retries here."""

    def __init__(self, client: redis.Redis, keys: Keys, *, terminal_ttl_s: int = 0) -> None: ...

    def submit(
        self,
        *,
        job_id: str,
        spec: str,
        queue: str,
        priority_step: int,
        user_id: str,
        max_attempts: int,
        expires_ms: int,
        message: str,
    ) -> bool:
        """Write the record as queued, with its `queued` event. True if new, False if it stood.

        Raises JobConflict if it stands with another spec.
        """
        raise NotImplementedError

    def claim(
        self,
        job_id: str,
        *,
        owner: str,
        node: str,
        slot: str,
        ttl_ms: int,
        delivery_tag: str,
        message: str,
    ) -> Claimed | NotClaimed:
        raise NotImplementedError

    def renew(self, lease: Lease, ttl_ms: int) -> Renewal:
        """Raises LeaseLost."""
        raise NotImplementedError

    def publish(
        self,
        lease: Lease,
        events: Sequence[str],
        *,
        state: JobState | None = None,
        snapshot: Mapping[str, str] | None = None,
    ) -> int:
        """Number, store and publish ``events``. Returns the last seq. Raises LeaseLost."""
        raise NotImplementedError

    def finish(
        self,
        lease: Lease,
        state: JobState,
        events: Sequence[str],
        *,
        reason: FailureReason | None,
        message: str,
        result: Mapping[str, Any],
    ) -> None:
        """Terminal, once. Raises LeaseLost."""
        raise NotImplementedError

    def requeue(
        self,
        lease: Lease,
        events: Sequence[str],
        *,
        reason: FailureReason,
        message: str,
        delay_ms: int,
        counts: bool,
        avoid_node: str,
        avoid_ms: int,
    ) -> JobState:
        raise NotImplementedError
