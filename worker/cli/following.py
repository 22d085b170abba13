"""Follows one job or several to their ends, and says how the command ends then."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from tasks import events
from tasks.events import Event, is_end
from tasks.following import follow_async
from tasks.settings import Settings
from worker.cli.exits import ExitCode
from worker.cli.text import note
from worker.cli.views import View

if TYPE_CHECKING:
    from tasks.roots import TrustRoot

_ENDS: Final[dict[type[Event], ExitCode]] = {
    events.Succeeded: ExitCode.OK,
    events.Failed: ExitCode.FAILED,
    events.Rejected: ExitCode.REJECTED,
    events.Cancelled: ExitCode.CANCELLED,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """What must be proven of the jobs."""

    root: TrustRoot
    specs: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of what was submitted, by job, where it was submitted here …"""
    since: float | None = None
    """… and when, in seconds since the epoch."""

    @classmethod
    def by(cls, path: Path, specs: Mapping[str, str] | None = None) -> Self:
        """By a trust file. Raises KeyUnusable."""
        from tasks.roots import TrustRoot

        return cls(root=TrustRoot.load(path), specs=specs or {})

    def check(self, job_id: str, settings: Settings) -> None:
        """Its end, as its record has it. Raises Unproven."""
        from tasks.vouching import End, check_end
        from worker.cli.job import read_record

        record = read_record(job_id, settings)
        spec = self.specs.get(job_id)
        check_end(record, End.of(record), self.root, spec=spec, since=self.since)


def follow_to_the_end(
    job_ids: Sequence[str], settings: Settings, view: View, proof: Proof | None = None
) -> ExitCode:
    """Show every event of the jobs in ``view``. ``proof``: if a trusted node has signed it.

    Returns 0 if all succeeded; else the code of the gravest end: failed, rejected, cancelled.
    A Ctrl-C leaves the jobs running, says so and is raised again.

    Raises UnknownJob, RedisUnavailable, Unproven, KeyboardInterrupt.
    """
    try:
        return asyncio.run(follow_all(job_ids, settings, view, proof))
    except KeyboardInterrupt:
        many = len(job_ids) > 1
        note(
            f"{'the jobs go' if many else f'job {job_ids[0]} goes'} on; follow "
            f"{'them' if many else 'it'} again: cyxwiz follow {' '.join(job_ids)}"
        )
        raise


async def follow_all(
    job_ids: Sequence[str], settings: Settings, view: View, proof: Proof | None = None
) -> ExitCode:
    """As `follow_to_the_end`, for a loop that runs already."""
    with view:
        ends = await asyncio.gather(*(_one(job_id, settings, view, proof) for job_id in job_ids))
    return next((code for code in _ENDS.values() if code and code in ends), ExitCode.OK)


async def _one(job_id: str, settings: Settings, view: View, proof: Proof | None) -> ExitCode:
    code = ExitCode.INTERNAL
    root = None if proof is None else proof.root
    spec = None if proof is None else proof.specs.get(job_id)
    async for envelope in follow_async(job_id, settings=settings, trust=root, spec=spec):
        if proof is not None and is_end(envelope.event):
            proof.check(job_id, settings)  # before it is shown
        view.show(envelope)
        code = _ENDS.get(type(envelope.event), code)
    return code
