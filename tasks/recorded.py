"""What the job record says, and what its scripts answer; see `tasks.record` and `tasks.leases`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tasks.state import JobState


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
    image: str = ""
    """What an attempt before this one ran: the image's digest, or its id in that node's engine;
    '' if none has run in a container."""
    image_reference: str = ""
    """… and what it was called."""
    handed_back_everywhere: str = ""
    """The reason for which every living node, the claiming one too, has handed the job back; ''
    where one has not had it yet, or had another reason."""
    message: str = ""
    """Its Celery message, as kombu's Redis transport would have it in its list; '' if it is not
    known. Kept for a Redis that loses its data."""
    message_tag: str = ""
    """… and its delivery tag."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Adopted:
    """A running attempt has a new supervisor; where the old one stopped."""

    state: JobState
    attempt: int
    batch: int
    """The number of the last batch of events that was published."""
    reading: str
    """What it wrote down with that of the attempt's output (`worker.stream.reading`); or ''."""
    progress: Mapping[str, Any]
    """The last progress event of the job; {} if there was none."""
    has_message: bool
    """Its Celery message is known."""
    times: int
    """How often the attempt was taken over, this time included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lost:
    """What a record must say again, beside the claim, when Redis has lost it."""

    queue: str
    priority_step: int
    user_id: str
    max_attempts: int
    node: str
    slot: str
    gpus: int


@dataclass(frozen=True, kw_only=True, slots=True)
class NotClaimed:
    """Nothing to do with this message: it is acknowledged, but if it is ``unknown``."""

    why: str
    """unknown (no record), busy, terminal, cancelled, expired, exhausted or avoided."""
    state: JobState
    """The record's state now; queued where there is no record."""
    result: str = ""
    """For a job that succeeded: its result (JSON)."""
    reason: str = ""
    message: str = ""
    result_stored: bool = False
    """Celery has the result."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Renewal:
    """The lease holds for another TTL, and what is asked of the attempt."""

    cancel: str
    """'' or why it shall be cancelled."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reaped:
    """What one round of the reaper dealt with."""

    lost: int
    """Attempts whose lease ran out."""
    pushed: int
    """Delayed jobs whose time came."""
    expired: int
    """Jobs that were not started in time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """How a job ended: what Celery must be told."""

    state: JobState
    result: Mapping[str, Any]
    reason: str
    message: str
    kombu_message: str
    """The Celery message of the job, as kombu's Redis transport has it in its list (JSON)."""
    result_stored: bool
    """Celery has been told."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobRecord:
    """What is known of a job. Times are seconds since the epoch by Redis's clock; 0: not yet."""

    job_id: str
    state: JobState
    queue: str
    user_id: str
    attempt: int
    max_attempts: int
    fence: int
    node: str
    slot: str
    submitted: float
    started: float
    finished: float
    reason: str
    message: str
    cancel: str
    spec: Mapping[str, Any]
    result: Mapping[str, Any]
    progress: Mapping[str, Any]
    """The last progress event; {} if there was none."""
    seq: int
    image: str = ""
    """The digest or id of the image of the last attempt in a container; '' if there was none."""
    sandbox: Mapping[str, Any] = field(default_factory=dict)
    """What was seen of the last attempt's sandbox; {} for a native one."""
    proof: str = ""
    """The node's signature of how it ended (`tasks.vouching`), JSON; '' where none has signed."""
    spec_digest: str = ""
    """SHA-256 of the configuration as submitted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultMeta:
    """Celery's result of a task as it stands in Redis."""

    key: str
    value: str
    expires_s: int
    """0: never."""
    is_all: bool
    """Whether Celery knows all of a job's end then."""

    def as_args(self) -> tuple[str, str, int, int]:
        """As the scripts take it."""
        return self.key, self.value, self.expires_s, int(self.is_all)
