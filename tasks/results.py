"""Celery's result backend on Redis, for producers that outlive an outage and hear of a refusal.

Celery's own either gives up a wait for a result a second after Redis went away, or, told to retry,
hangs for ever where Redis is refused, whatever time-out it was given. Here a wait goes on through
an outage, as long as its time-out and at most 300 s; all else that reads is an error at once.
Storing retries as the settings say: a result must not be lost. It is one script, which also marks
the job's record: Celery's own way takes three round trips.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar

import redis
from celery.backends.redis import RedisBackend, ResultConsumer, SentinelBackend
from celery.states import FAILURE, READY_STATES, SUCCESS
from redis.backoff import NoBackoff
from redis.retry import Retry

from tasks.errors import UnknownResult
from tasks.messages import VERSION, VERSION_HEADER
from tasks.recorded import ResultMeta
from tasks.scripts import Scripts
from tasks.settings import unavailable

STORED: Final = "result_is_stored"
"""Attribute of a task's request: whoever ended the job has stored its result in the same step."""
_WAIT_S: Final = 300.0
_AGAIN_AT_MOST_S: Final = 2.0
_LOOK_AFTER_S: Final = 5.0
_AWAY: Final = (redis.ConnectionError, redis.TimeoutError, OSError)
_T = TypeVar("_T")


def told_with_result(request: Any) -> bool:
    """Whether Celery knows all of a task's end once its result is stored.

    A chord counts its parts after that, a chain fails after that, and error callbacks are called;
    and whoever ignores results has none stored.
    """
    if request is None or getattr(request, "ignore_result", False):
        return False
    return not (request.chord or request.chain or request.errbacks)


class JobConsumer(ResultConsumer):  # type: ignore[misc]  # Celery has no type hints
    """Waits for results on a channel, and subscribes again when Redis is back.

    A result that is stored after Celery's own has read and before it has subscribed again would
    be waited for for ever, as would one that a deaf channel does not bring; so they are looked for.
    """

    _looked = 0.0

    @contextmanager
    def reconnect_on_error(self) -> Iterator[None]:
        """Around each use of the channel. Raises RedisUnavailable."""
        try:
            yield
        except _AWAY:
            self.backend.asking(self._reconnect_pubsub)

    def drain_events(self, timeout: float | None = None) -> None:
        """Handle what comes; now and then look at what is stored."""
        if self._pubsub is None and self.subscribed_to:  # whoever lost it had no time to wait
            self.backend.asking(self._reconnect_pubsub)
        super().drain_events(timeout)
        if time.monotonic() - self._looked > _LOOK_AFTER_S:
            self.backend.asking(self._look)

    def _reconnect_pubsub(self) -> None:
        super()._reconnect_pubsub()
        self._look()

    def _look(self) -> None:
        """Take the results that are there."""
        self._looked = time.monotonic()
        with self._locked():
            found = self.backend.client.mget(self.subscribed_to) if self.subscribed_to else []
            for text in found:
                meta = self._decode_result(text) if text else {}
                if meta.get("status") in READY_STATES:
                    self.on_state_change(meta, None)

    def cancel_for(self, task_id: str) -> None:
        """Listen no more for a result. Comes when a result is collected as garbage, so it neither
        waits nor raises: a channel that Redis has lost needs no leaving."""
        with self.backend.waiting(0.0), suppress(*_AWAY):
            super().cancel_for(task_id)


class JobBackend(RedisBackend):  # type: ignore[misc]  # Celery has no type hints
    """See the module's docstring. Its app is a `tasks.publishing.JobCelery`."""

    ResultConsumer = JobConsumer

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.connparams["retry"] = Retry(NoBackoff(), 0)  # else each try takes 3 s more
        self._reached = False
        self._waits = threading.local()
        self._scripts: Scripts | None = None

    def asking(self, ask: Callable[[], _T]) -> _T:
        """Ask until Redis answers, as long as this thread's wait lasts.

        Raises RedisUnavailable: that time is over, or this is no wait, or Redis was never there.
        """
        until = getattr(self._waits, "until", 0.0) if self._reached else 0.0
        until = min(until, time.monotonic() + _WAIT_S)
        again = 0.05
        while True:
            try:
                found = ask()
            except _AWAY as error:
                if time.monotonic() + again > until:
                    raise unavailable(self.app.hub.redis_url, error) from error
            else:
                self._reached = True
                return found
            time.sleep(again)
            again = min(again * 2, _AGAIN_AT_MOST_S)

    def wait_for_pending(self, result: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        """Of `AsyncResult.get`."""
        with self.waiting(timeout):
            return super().wait_for_pending(result, timeout=timeout, **kwargs)

    def iter_native(self, result: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        """Of `GroupResult.get`."""
        with self.waiting(timeout):
            yield from super().iter_native(result, timeout=timeout, **kwargs)

    def mget(self, keys: Any) -> Any:
        """The states of a group."""
        ask = super().mget
        return self.asking(lambda: ask(keys))

    def on_chord_part_return(self, *args: Any, **kwargs: Any) -> None:
        """As sure as the result itself: else a chord would take an outage for a failure. It may
        be said twice."""
        super()._ensure_retryable(super().on_chord_part_return, *args, **kwargs)

    def _call_task_errbacks(self, *args: Any) -> None:
        """As sure as what follows a success."""
        self.app.amqp.surely(super()._call_task_errbacks, *args)

    def meta_from_decoded(self, meta: Any) -> Any:
        """What was stored, understood. Raises UnknownResult."""
        if not isinstance(meta, dict) or not isinstance(meta.get("status"), str):
            raise UnknownResult("what is stored as the job's result is none of this project's")
        version = meta.get(VERSION_HEADER, VERSION)
        if version != VERSION or isinstance(version, bool):
            raise UnknownResult(
                f"result of version {version!r:.40} of job {meta.get('task_id')!s:.80}; this reads "
                f"version {VERSION}: upgrade cyxwiz-worker here"
            )
        return super().meta_from_decoded(meta)

    @contextmanager
    def waiting(self, timeout: float | None) -> Iterator[None]:
        """Within, `asking` waits for a Redis that went away, at most ``timeout`` seconds."""
        before = getattr(self._waits, "until", 0.0)
        self._waits.until = float("inf") if timeout is None else time.monotonic() + timeout
        try:
            yield
        finally:
            self._waits.until = before

    def _store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: Any = None,
        request: Any = None,
        **_: Any,
    ) -> Any:
        if not (state == SUCCESS and getattr(request, STORED, False)):
            meta = self.meta_to_store(task_id, result, state, traceback, request)
            self.ensure(self._tell, (task_id, *meta.as_args()))
        return result

    def meta_to_store(
        self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None
    ) -> ResultMeta:
        """What Redis gets for a result."""
        meta = self._get_result_meta(
            result=result, state=state, traceback=traceback, request=request
        )
        meta["task_id"] = task_id
        meta[VERSION_HEADER] = VERSION
        expires = (self.failure_expires if state == FAILURE else None) or self.expires
        told = state in READY_STATES and told_with_result(request)
        return ResultMeta(
            key=self.get_key_for_task(task_id),
            value=self.encode(meta),
            expires_s=expires or 0,
            is_all=told,
        )

    def _tell(self, *args: str | int) -> None:
        if self._scripts is None:
            self._scripts = Scripts(self.client, self.app.hub.prefix)
        self._scripts.call("tell", *args)

    def _ensure_retryable(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        """Celery's, for what it stores; what is read is asked for as above."""
        if func == self._store_result:
            return super()._ensure_retryable(func, *args, **kwargs)
        for name in ("fallback_exc", "fallback_msg", "max_retries"):
            kwargs.pop(name, None)
        return self.asking(lambda: func(*args, **kwargs))


class SentinelJobBackend(JobBackend, SentinelBackend):  # type: ignore[misc]  # Celery has no type hints
    """The same where Sentinels say which Redis is the primary."""
