"""`AsyncResult` of a job: Celery's, which can also ask for proof of what it is told."""

from __future__ import annotations

import inspect
import os
from typing import TYPE_CHECKING, Any, Final

from celery import states
from celery.exceptions import TimeoutError as CeleryTimeout
from celery.result import AsyncResult

from tasks.errors import JobFailed, JobRejected, NotSigned, UnknownJob
from tasks.publishing import reachable
from tasks.roots import TrustRoot
from tasks.state import JobState
from tasks.vouching import End, check_end

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.job import JobConfig

_CELERYS: Final = inspect.signature(AsyncResult.get)


class JobResult(AsyncResult):  # type: ignore[misc]  # Celery has no type hints
    """Celery's `AsyncResult`, with ``get(trust=…)`` and `prove`."""

    submitted: JobConfig | None = None
    """The job, where this process has submitted it …"""
    submitted_at: float | None = None
    """… and when it did so, in seconds since the epoch. An end that was signed before is of an
    earlier job of the same id; None: that is as good."""
    _cache: Any  # Celery's: what it knows of the end

    def get(
        self,
        timeout: float | None = None,
        *args: Any,
        trust: TrustRoot | str | os.PathLike[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Celery's. With ``trust``, whatever it returns or raises of the job's end is proven first.

        ``trust``: see `prove`. A ``callback`` is called when that is done. Raises beside what
        Celery's raises what `prove` raises, and ValueError: ``on_message``, which would be given
        what nobody has proven.
        """
        if trust is None:
            return super().get(timeout, *args, **kwargs)
        root = TrustRoot.of(trust)
        asked = _CELERYS.bind(self, timeout, *args, **kwargs).arguments
        if asked.pop("on_message", None) is not None:
            raise ValueError("on_message: is given messages before they are proven; leave it out")
        callback = asked.pop("callback", None)
        del asked["self"]
        try:
            found = super().get(**asked)
        except CeleryTimeout:
            raise
        except Exception:  # how the job failed, or a parent of it
            if self._cache is not None:
                self.prove(root)
            raise
        self.prove(root)
        if callback is not None:
            callback(self.id, found)
        return found

    def prove(self, trust: TrustRoot | str | os.PathLike[str]) -> str:
        """The node that has signed how the job ended, and what `result` is.

        ``trust``: a `tasks.roots.TrustRoot`, or the path of one. Raises KeyUnusable, NotSigned,
        NodeUntrusted, Forged, RedisUnavailable.
        """
        root = TrustRoot.of(trust)
        try:
            return self._proven(root)
        except BaseException:
            self._cache = None  # what is not proven is not kept as what it was
            raise

    def _proven(self, root: TrustRoot) -> str:
        end = self._end(self._get_task_meta())
        with reachable(self.app.hub):
            try:
                record = self.app.records.get(self.id)
            except UnknownJob as error:
                raise NotSigned(f"{error}; so there is no signature of its end") from None
        job = self.submitted
        spec = None if job is None else job.with_job_id(self.id).digest()
        return check_end(record, end, root, spec=spec, since=self.submitted_at)

    def _end(self, meta: Mapping[str, Any]) -> End:
        """What Celery tells of the end. Raises NotSigned: nothing that a node says."""
        status, result = meta["status"], meta["result"]
        if status == states.SUCCESS and isinstance(result, dict):
            return End(state=JobState.SUCCEEDED, result=result or None)
        if status == states.FAILURE and isinstance(result, JobFailed):
            state = JobState.REJECTED if isinstance(result, JobRejected) else JobState.FAILED
            return End(state=state, reason=result.reason, message=result.message)
        if status == states.REVOKED and isinstance(result, Exception):
            return End(state=JobState.CANCELLED, message=str(result.args[0] if result.args else ""))
        raise NotSigned(f"job {self.id}: {status} ({result!r:.200}) is nothing that a node signs")
