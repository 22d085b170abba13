"""The states of a job, which may follow which, and why a job fails."""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import Final


class JobState(StrEnum):
    """Where a job stands. ``retrying`` is an event, not a state: such a job is ``queued`` again."""

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REJECTED = "rejected"

    @property
    def terminal(self) -> bool:
        """True once nothing more can happen to the job."""
        return not TRANSITIONS[self]


_ENDS: Final = frozenset(
    {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.REJECTED}
)

TRANSITIONS: Final = MappingProxyType(
    {
        # queued -> failed: it expired; queued -> rejected: policy, before anything ran
        JobState.QUEUED: frozenset(
            {JobState.STARTING, JobState.FAILED, JobState.CANCELLED, JobState.REJECTED}
        ),
        # -> queued: handed back, retried, or its lease ran out
        JobState.STARTING: frozenset({JobState.RUNNING, JobState.QUEUED}) | _ENDS,
        JobState.RUNNING: frozenset({JobState.PAUSED, JobState.QUEUED}) | _ENDS,
        JobState.PAUSED: frozenset({JobState.RUNNING, JobState.QUEUED}) | _ENDS,
        JobState.SUCCEEDED: frozenset[JobState](),
        JobState.FAILED: frozenset[JobState](),
        JobState.CANCELLED: frozenset[JobState](),
        JobState.REJECTED: frozenset[JobState](),
    }
)


def allowed(before: JobState, after: JobState) -> bool:
    """Whether a job in state ``before`` may go to ``after``."""
    return after in TRANSITIONS[before]


class FailureReason(StrEnum):
    """Why an attempt did not succeed. The supervisor decides it, from evidence alone."""

    USER_ERROR = "user_error"
    INVALID_OUTPUT = "invalid_output"
    OUT_OF_MEMORY = "out_of_memory"
    GPU_OUT_OF_MEMORY = "gpu_out_of_memory"
    TIMEOUT = "timeout"
    STALLED = "stalled"
    DATASET_UNAVAILABLE = "dataset_unavailable"
    IMAGE_UNAVAILABLE = "image_unavailable"
    SANDBOX_UNAVAILABLE = "sandbox_unavailable"
    UNTRUSTED = "untrusted"
    NO_DEVICE = "no_device"
    DEVICE_LOST = "device_lost"
    ENGINE_ERROR = "engine_error"
    NODE_LOST = "node_lost"
    OUTPUT_TOO_LARGE = "output_too_large"
    INTERNAL = "internal"

    @property
    def retryable(self) -> bool:
        """Whether another attempt, here or elsewhere, might end otherwise."""
        return self in _RETRYABLE


_RETRYABLE: Final = frozenset(
    {
        FailureReason.STALLED,
        FailureReason.DATASET_UNAVAILABLE,
        FailureReason.IMAGE_UNAVAILABLE,
        FailureReason.NO_DEVICE,
        FailureReason.DEVICE_LOST,
        FailureReason.ENGINE_ERROR,
        FailureReason.NODE_LOST,
        FailureReason.INTERNAL,
    }
)
