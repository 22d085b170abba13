"""The socket that a node plugs into: what a worker does with a delivered job.

`tasks` is what producers import, so it cannot know the node; a node binds its executor here when
its worker process starts, and the task `train` calls it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tasks.recorded import ResultMeta


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """One delivery of a job's Celery message to this worker."""

    job_id: str
    config: Mapping[str, Any]
    """The configuration in the message; the record's is the truth where both exist."""
    delivery_tag: str
    """kombu's tag: the claim acknowledges the message by it ('' if there is none)."""
    hostname: str
    """The Celery worker's node name, such as ``cpu0@node-a``."""
    queue: str
    """The queue that it came from."""
    started: Callable[[], None]
    """Writes Celery's STARTED; call it after the claim, never before."""
    progress: Callable[[Mapping[str, Any]], None]
    """Writes Celery's PROGRESS and tells Flower; throttled by the caller."""
    meta: Callable[[Mapping[str, Any]], ResultMeta | None] = lambda _: None
    """Celery's result of a success, for whoever can store it with the job's end; None: Celery has
    to do it."""
    sent: int | None = None
    """`tasks.messages.SENT_HEADER`; None: a program that records nothing has sent it, or an earlier
    version."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Succeeded:
    """The job is done; ``result`` is Celery's result (JSON)."""

    result: Mapping[str, Any]
    is_stored: bool = False
    """It is stored already: `Delivery.meta`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """The job ended without success and will not be tried again."""

    reason: str
    message: str
    rejected: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Cancelled:
    """The job was cancelled."""

    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Dropped:
    """Nothing for Celery to store: a duplicate, a lost lease, a retry or a hand-back."""

    why: str


Verdict = Succeeded | Failed | Cancelled | Dropped


class JobExecutor(Protocol):
    """Runs one delivery to its verdict; never raises for what a job does."""

    def execute(self, delivery: Delivery) -> Verdict:
        """Claim the job, run one attempt of it, finish it."""
        ...

    def stored(self, job_id: str) -> None:
        """Celery has stored the job's result."""
        ...


_bound: JobExecutor | None = None


def bind(executor: JobExecutor | None) -> None:
    """Make ``executor`` the one that `train` runs jobs with in this process (None: unbind)."""
    global _bound  # one process, one executor: the seam between two packages
    _bound = executor


def current() -> JobExecutor | None:
    """The executor of this process; None where no node is bound (a producer)."""
    return _bound
