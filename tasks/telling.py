"""Tells Celery how a job ended, where the worker that ended it could not, or no worker did.

The record is the truth and is written first. What then has to reach Celery is its result, the
chord that counts the job, the rest of its chain, its error callbacks. A worker that lives does
that itself; here it is done for jobs that were cancelled or expired while queued, that lost their
last node, and for those whose worker died in between.
"""

from __future__ import annotations

import base64
import json
import logging
from typing import TYPE_CHECKING, Any

from celery import states
from celery.app.task import Context

from tasks.errors import JobFailed, JobRejected, UnknownJob
from tasks.recorded import Ending
from tasks.state import JobState

if TYPE_CHECKING:
    from tasks.publishing import JobCelery

log = logging.getLogger(__name__)


def tell(app: JobCelery, job_id: str) -> None:
    """See that Celery knows how the job ended. Nothing if it does, or the record is gone.

    A success whose chain or callbacks have yet to be called is left to a worker, by pushing the
    job's message again.

    Raises what the result backend raises when Redis is away.
    """
    try:
        ending = app.records.ending(job_id)
    except UnknownJob:
        return
    if not ending.state.terminal or ending.result_stored:
        return
    request = _request(job_id, ending.kombu_message)
    meta = app.backend.get_task_meta(job_id, cache=False)
    if meta["status"] in states.READY_STATES:
        # stored, and then something died: what hears of it afterwards may have missed it
        if meta["status"] == states.FAILURE and (request.chain or request.errbacks):
            _tell_failure(app, job_id, ending, request)
        elif request.chord:
            app.backend.on_chord_part_return(request, meta["status"], meta["result"])
    elif ending.state is JobState.SUCCEEDED:
        if app.records.retell(job_id):
            log.info("telling.pushed job=%s", job_id)
            return  # whoever gets the message tells, and marks it
        app.backend.mark_as_done(job_id, dict(ending.result), request=request)
    else:
        _tell_failure(app, job_id, ending, request)
    app.records.mark_result_stored(job_id)
    log.info("telling.told job=%s state=%s", job_id, ending.state)


def _tell_failure(app: JobCelery, job_id: str, ending: Ending, request: Context) -> None:
    if ending.state is JobState.CANCELLED:
        app.backend.mark_as_revoked(job_id, ending.message, request=request)
        return
    kind = JobRejected if ending.state is JobState.REJECTED else JobFailed
    error = kind(ending.reason, ending.message)
    app.backend.mark_as_failure(job_id, error, request=request)


def _request(job_id: str, kombu_message: str) -> Context:
    """The request that a worker would make of the message."""
    headers: dict[str, Any] = {}
    embed: dict[str, Any] = {}
    args: Any = ()
    try:
        message = json.loads(kombu_message)
        headers = dict(message["headers"])
        args, _, found = json.loads(base64.b64decode(message["body"]))
        embed = dict(found or {})
    except (ValueError, KeyError, TypeError, RecursionError):
        log.warning("telling.unreadable job=%s", job_id)
    given = {"id": job_id, "args": args, "kwargs": {}, "delivery_info": {}}
    return Context({**headers, **given, **embed})
