"""A job that ends before anything of it was started: refused for good, or handed back."""

from __future__ import annotations

from tasks.state import FailureReason, JobState
from worker.outcome import Outcome


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
