"""Follows one job or several to their ends, and says how the command ends then."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from tasks import events
from tasks.events import Event
from tasks.following import follow_async
from tasks.settings import Settings
from worker.cli.exits import ExitCode
from worker.cli.text import note
from worker.cli.views import View

_ENDS: Final[dict[type[Event], ExitCode]] = {
    events.Succeeded: ExitCode.OK,
    events.Failed: ExitCode.FAILED,
    events.Rejected: ExitCode.REJECTED,
    events.Cancelled: ExitCode.CANCELLED,
}


def follow_to_the_end(job_ids: Sequence[str], settings: Settings, view: View) -> ExitCode:
    """Show every event of the jobs in ``view``.

    Returns 0 if all succeeded; else the code of the gravest end: failed, rejected, cancelled.
    A Ctrl-C leaves the jobs running, says so and is raised again.

    Raises UnknownJob, RedisUnavailable, KeyboardInterrupt.
    """
    try:
        return asyncio.run(follow_all(job_ids, settings, view))
    except KeyboardInterrupt:
        many = len(job_ids) > 1
        note(
            f"{'the jobs go' if many else f'job {job_ids[0]} goes'} on; follow "
            f"{'them' if many else 'it'} again: cyxwiz follow {' '.join(job_ids)}"
        )
        raise


async def follow_all(job_ids: Sequence[str], settings: Settings, view: View) -> ExitCode:
    """As `follow_to_the_end`, for a loop that runs already."""
    with view:
        ends = await asyncio.gather(*(_one(job_id, settings, view) for job_id in job_ids))
    return next((code for code in _ENDS.values() if code and code in ends), ExitCode.OK)


async def _one(job_id: str, settings: Settings, view: View) -> ExitCode:
    code = ExitCode.INTERNAL
    async for envelope in follow_async(job_id, settings=settings):
        view.show(envelope)
        code = _ENDS.get(type(envelope.event), code)
    return code
