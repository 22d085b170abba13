"""`train`: the task that a job is.

On a producer it validates; on a node it hands the delivered job to the node's executor.
"""

from __future__ import annotations

import time
from collections import UserDict
from collections.abc import Mapping, MutableMapping
from typing import Any, assert_never

from celery import Task
from celery.exceptions import Ignore, Reject
from celery.states import SUCCESS

from tasks.celery import app
from tasks.errors import InvalidJob, JobFailed, JobRejected
from tasks.executor import Cancelled, Delivery, Dropped, Failed, Succeeded, Verdict, current
from tasks.messages import SENT_HEADER
from tasks.options import check, with_expiry
from tasks.publishing import TRAIN, Checked, job_of, signed
from tasks.recorded import ResultMeta
from tasks.results import STORED, told_with_result
from tasks.trust import sign


class JobTask(Task):  # type: ignore[misc]  # Celery has no type hints
    """Validates at the producer, whichever way the job is submitted.

    Both `signature` (``.s()``, ``.si()``, group, chain, chord) and `apply_async` (``.delay()``)
    dump the configuration and set the task's id: with `apply_async` alone, a ``job_id`` in a
    group would make its ``.get()`` wait for an id that nobody uses.
    """

    # Of a result that is stored whole, for Celery's log and Flower's list: to make it would else
    # cost a short job more than its claim.
    resultrepr_maxsize = 128

    # Else the default priority of tasks would stand for the priority of every job.
    from_config = tuple(one for one in Task.from_config if one[0] != "priority")

    def signature(self, args: Any = None, *starargs: Any, **starkwargs: Any) -> Any:
        """A Celery signature of a job. Raises InvalidJob, KeyUnusable."""
        kwargs = starkwargs.get("kwargs") or (starargs[0] if starargs else None)
        task_id = (starkwargs.get("options") or {}).get("task_id")
        job = job_of(*signed(args, kwargs, task_id, None), task_id)
        made = super().signature(
            (job.to_wire(),),
            {},
            *starargs[1:],
            **{key: value for key, value in starkwargs.items() if key != "kwargs"},
        )
        if job.job_id is not None:
            made.set(task_id=job.job_id)
        return made

    subtask = signature

    def apply_async(
        self,
        args: Any = None,
        kwargs: Any = None,
        task_id: str | None = None,
        *rest: Any,
        **options: Any,
    ) -> Any:
        """Submit a job. Raises InvalidJob, KeyUnusable, JobConflict, RedisUnavailable.

        ``key`` (here or in ``kwargs``): a `tasks.trust.SigningKey` or the path of one, which signs.
        """
        check(options)
        key = options.pop("key", None) or (kwargs or {}).get("key")
        kwargs = {name: value for name, value in (kwargs or {}).items() if name != "key"}
        job = with_expiry(job_of(args, kwargs, task_id), options.pop("expires", None))
        if key is not None:
            job = sign(job, key)
        began = time.time()
        sent = super().apply_async((Checked(job),), {}, task_id or job.job_id, *rest, **options)
        sent.submitted, sent.submitted_at = job, began
        return sent

    def apply(self, *_: Any, **__: Any) -> Any:
        """Refused: a job runs on a node."""
        raise InvalidJob("a job runs on a node, not in this process: use apply_async or delay")

    def chunks(self, *_: Any, **__: Any) -> Any:
        """Refused, and so are `map` and `starmap`: they would be one task of many jobs."""
        raise InvalidJob("each job is a task of its own: use group(train.s(config) for …)")

    map = starmap = chunks

    def after_return(
        self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any
    ) -> None:
        """Celery knows all of the job's end: the record need not repair it any more."""
        executor = current()
        if executor is not None and not told_with_result(self.request):
            executor.stored(task_id)


@app.task(  # type: ignore[untyped-decorator]  # Celery has no type hints
    bind=True, base=JobTask, name=TRAIN, typing=False, shared=False
)
def train(self: JobTask, config: Mapping[str, Any]) -> MutableMapping[str, Any]:
    """Run a job: ``train.delay(config)``, with a dict or a `JobConfig`; ``key=…`` signs it.

    Returns (by ``AsyncResult.get()``) the job's result: a dict with its metrics and artefacts.

    Raises:
        InvalidJob: at the producer, naming each field that is wrong.
        KeyUnusable: the key that shall sign cannot be used.
        JobConflict: the ``job_id`` is another job's.
        RedisUnavailable: Redis refuses.
        JobFailed, JobRejected: from ``.get()``, with the reason.
    """
    executor = current()
    if executor is None:
        raise Reject("this worker is no node: start one with `cyxwiz node`", requeue=True)
    return _settle(self, executor.execute(_delivery(self, config)))


def _delivery(task: JobTask, config: Mapping[str, Any]) -> Delivery:
    request = task.request
    job_id, hostname = str(request.id), str(request.hostname)
    properties = request.properties or {}
    info = request.delivery_info or {}

    def started() -> None:
        task.backend.mark_as_started(job_id, hostname=hostname)
        task.send_event("task-started")

    def progress(fields: Mapping[str, Any]) -> None:
        task.update_state(state="PROGRESS", meta=dict(fields))
        task.send_event("task-progress", **fields)

    def meta(result: Mapping[str, Any]) -> ResultMeta | None:
        # What follows is published before a result is stored: so a result that stands there says
        # that it was. Nor would the result name its children.
        if request.ignore_result or request.callbacks or request.chain or request.chord:
            return None
        found: ResultMeta = task.backend.meta_to_store(
            job_id, dict(result), SUCCESS, request=request
        )
        return found

    return Delivery(
        job_id=job_id,
        config=config,
        delivery_tag=str(properties.get("delivery_tag") or ""),
        hostname=hostname,
        queue=str(info.get("routing_key") or ""),
        started=started,
        progress=progress,
        meta=meta,
        sent=request.get(SENT_HEADER),
    )


def _settle(task: JobTask, verdict: Verdict) -> MutableMapping[str, Any]:
    """Celery's own end of a job."""
    match verdict:
        case Succeeded(result=result, is_stored=is_stored):
            setattr(task.request, STORED, is_stored)
            # Where Celery has the result, it only shows it from here on, and takes long to make
            # that of a dict; of this, the words are the same.
            return UserDict(result) if is_stored else dict(result)
        case Failed(reason=reason, message=message, rejected=rejected):
            raise (JobRejected if rejected else JobFailed)(reason, message)
        case Cancelled(message=message):
            # with the request: a chord that waits for this job is told
            task.backend.mark_as_revoked(task.request.id, message, request=task.request)
            task.send_event("task-revoked", terminated=True, signum=None, expired=False)
            executor = current()
            if executor is not None:
                executor.stored(str(task.request.id))
            raise Ignore
        case Dropped():
            raise Ignore
        case _:
            assert_never(verdict)
