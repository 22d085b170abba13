"""Whether a job's standing gives it what it asks for that not every job may have. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.choices import Network
from tasks.job import JobConfig
from worker.trust.keyring import Standing


@dataclass(frozen=True, kw_only=True, slots=True)
class Lacking:
    """It asks for more than it may have here."""

    message: str
    elsewhere: bool
    """Another node may trust it: this one does not know who signed it."""


def lacking(job: JobConfig, standing: Standing) -> Lacking | None:
    """What the job asks for and may not have here; None if nothing."""
    if standing.key is not None:
        uncovered = standing.key.scope.uncovered(job)
        if not uncovered:
            return None
        return Lacking(
            message=f"{standing.why}: " + "; ".join(uncovered),
            elsewhere=False,
        )
    asks = []
    if job.secrets:
        asks.append("secrets")
    if job.network is not Network.NONE:
        asks.append("network")
    if not asks:
        return None
    return Lacking(
        message=f"{' and '.join(asks)}: only a job that a key of the node has signed gets any; "
        f"{standing.why}",
        elsewhere=standing.signed,
    )
