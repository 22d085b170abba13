"""A job that ends before anything of it was started: refused for good, or handed back."""

from __future__ import annotations

from tasks.errors import RuntimeUnavailable
from tasks.state import FailureReason, JobState
from worker.devices.claims import DeviceBusy, NoSuchDevices
from worker.outcome import Outcome
from worker.runtimes.engine.errors import (
    EngineError,
    EngineMissing,
    ImageForbidden,
    SandboxUnavailable,
)


class TurnedAway(Exception):
    """The attempt goes no further; ``outcome`` is its end."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.message)
        self.outcome = outcome

    @classmethod
    def rejected(cls, reason: FailureReason, message: str) -> TurnedAway:
        """No node may run the job as it stands."""
        return cls(Outcome(state=JobState.REJECTED, reason=reason, message=message))

    @classmethod
    def handed_back(cls, reason: FailureReason, message: str) -> TurnedAway:
        """This node cannot run it now; no attempt is counted."""
        return cls(
            Outcome(state=JobState.QUEUED, reason=reason, message=message, retry=True, counts=False)
        )

    @classmethod
    def failed(cls, reason: FailureReason, message: str) -> TurnedAway:
        """It was tried, and may be tried again as often as the job allows."""
        return cls(Outcome(state=JobState.FAILED, reason=reason, message=message, retry=True))

    @classmethod
    def by_runtime(cls, error: RuntimeUnavailable, last_reason: str) -> TurnedAway:
        """For what a runtime could not do. ``last_reason``: for which every node has handed the
        job back; '' if one may still take it. An engine that is away, or a slot that is held, is no
        fault of the job; one that answers, and does not start it, costs an attempt.
        """
        if isinstance(error, DeviceBusy | NoSuchDevices):
            return cls.handed_back(FailureReason.NO_DEVICE, str(error))
        reason = error.reason if isinstance(error, EngineError) else FailureReason.ENGINE_ERROR
        if reason is FailureReason.ENGINE_ERROR:
            nobodys = not isinstance(error, EngineError) or isinstance(error, EngineMissing)
            return (cls.handed_back if nobodys else cls.failed)(reason, str(error))
        if last_reason != reason:
            return cls.handed_back(reason, str(error))
        if isinstance(error, SandboxUnavailable | ImageForbidden):
            return cls.rejected(reason, str(error))
        return cls.failed(reason, str(error))
