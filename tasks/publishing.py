"""How a job gets from a producer into Redis: validated, routed, recorded, then published.

All ways of publishing (`delay`, `apply_async`, a chain's next step on a worker, `send_task` by a
program that has no `train`) meet in Celery's `AMQP.send_task_message`; the record is written
there, before the message. So a message that is lost can be pushed again from the record.
"""

from __future__ import annotations

import base64
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Final

import redis
from celery import Celery
from celery.app.amqp import AMQP
from kombu.exceptions import OperationalError
from kombu.serialization import dumps
from kombu.utils.uuid import uuid

from tasks import options
from tasks.errors import InvalidJob, RedisUnavailable
from tasks.job import JobConfig
from tasks.messages import MOST_BYTES, SENT_HEADER, VERSION, VERSION_HEADER
from tasks.needs import needs_of
from tasks.record import Records
from tasks.routing import route
from tasks.settings import Settings, unavailable
from tasks.transport import JobConnection

log = logging.getLogger(__name__)

TRAIN: Final = "tasks.train"
"""The task's name, for `app.send_task(TRAIN, [config])`."""

_PIPED: Final = (
    "a parent's result is piped into the job, which takes nothing but its own configuration: "
    "write train.si(config) for every step but the first (si: an immutable signature)"
)


_SEND_TASK: Final = ("args", "kwargs", "countdown", "eta", "task_id")
"""What Celery's `send_task` takes by place, after the name."""


class Checked(dict[str, Any]):
    """A job's configuration as it is sent, by whoever has validated it: once is enough."""

    def __init__(self, job: JobConfig) -> None:
        super().__init__(job.to_wire())
        self.job = job


class JobCelery(Celery):  # type: ignore[misc]  # Celery has no type hints
    """Celery, with the hub that its jobs are recorded in."""

    hub: Settings
    _records: Records | None = None

    @property
    def records(self) -> Records:
        """The job records of this app's Redis."""
        if self._records is None:
            self._records = Records(
                self.hub.connect(), self.hub.keys, terminal_ttl_s=self.hub.result_ttl_s
            )
        return self._records

    @cached_property
    def AsyncResult(self) -> Any:  # noqa: N802 - Celery's name
        """The class of results: jobs' can ask for proof."""
        return self.subclass_with_self("tasks.job_result:JobResult", name="AsyncResult")

    def send_task(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Celery's, but a Redis that refuses is an error within 3 s that names it."""
        if name != TRAIN:
            return super().send_task(name, *args, **kwargs)
        if len(args) > len(_SEND_TASK):
            raise TypeError("send_task: name what comes after task_id")
        given = dict(zip(_SEND_TASK, args, strict=False)) | kwargs
        job = job_of(given.pop("args", None), given.pop("kwargs", None), given.get("task_id"))
        if job.job_id is None:
            job = job.with_job_id(uuid())
        given["task_id"] = job.job_id  # the result has the job's id
        # Celery subscribes for the result first, and would retry that for long
        with reachable(self.hub), self.backend.waiting(0.0):
            return super().send_task(name, (Checked(job),), {}, **given)


_AWAY: Final = (redis.ConnectionError, redis.TimeoutError, OperationalError)
_AGAIN_S: Final = 0.05
_AGAIN_AT_MOST_S: Final = 2.0


class reachable:  # noqa: N801 - a context manager, read as a word
    """Turns a refused connection into RedisUnavailable."""

    def __init__(self, hub: Settings) -> None:
        self._hub = hub

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, _AWAY):
            raise unavailable(self._hub.redis_url, error) from error


class _Recorder:
    """A producer whose first message, the job's own, comes into its queue with the job's record, in
    one step. What Celery publishes after it goes its way."""

    def __init__(self, producer: Any, submit: Callable[[], None]) -> None:
        self._producer = producer
        self._submit: Callable[[], None] | None = submit

    def publish(self, *args: Any, **kwargs: Any) -> Any:
        """kombu's."""
        if self._submit is None:
            return self._producer.publish(*args, **kwargs)
        self._submit()
        self._submit = None
        return None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)


class JobAMQP(AMQP):  # type: ignore[misc]  # Celery has no type hints
    """Records a job before its message is published."""

    Connection = BrokerConnection = JobConnection

    def _create_task_sender(self) -> Any:
        send = super()._create_task_sender()

        def send_task_message(producer: Any, name: str, message: Any, **said: Any) -> Any:
            for signature in _following(message.body[2]):
                _refuse_piping(signature)
            if name == TRAIN:
                message, submit = self._submission(message, said)
                producer = _Recorder(producer, submit)
            return send(producer, name, message, **said)

        return send_task_message

    def _retry_publish(self, publish: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return self.surely(publish, *args, **kwargs)

    def surely(self, publish: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Publish what follows a job: the rest of its chain, a chord's body, callbacks.

        The job has ended, and what follows it is published by nobody else; Celery would take a
        refusal for the job's own failure. So it is tried for as long as Redis is away. A job that
        was published before is the same job; another task may come twice.
        """
        again = _AGAIN_S
        while True:
            try:
                return super()._retry_publish(publish, *args, **kwargs)
            except (RedisUnavailable, *_AWAY) as error:
                log.warning("publishing.put_off error=%s", error)
            time.sleep(again)
            again = min(again * 2, _AGAIN_AT_MOST_S)

    def _submission(self, message: Any, said: dict[str, Any]) -> tuple[Any, Callable[[], None]]:
        """The message with the job's id in its configuration; and what writes the job's record, to
        be called once headers and properties are as they shall be: Celery adds to both.

        ``said``: the publishing options; made right for the job.
        """
        headers, properties, (args, kwargs, embed), sent_event = message
        options.check_headers(headers)
        options.check({"exchange": said.get("exchange") or None})
        job = options.with_expiry(job_of(args, kwargs, headers["id"]), headers.get("expires"))
        headers[VERSION_HEADER] = VERSION
        headers[SENT_HEADER] = int(time.time())
        headers["expires"] = None  # the record's to keep: Celery would only drop the message
        way = route(job)
        queue = options.queue_name(said.get("queue"), way.queue)
        said["priority"] = options.priority_step(said.get("priority"), way.priority_step)
        step = said["priority"]
        body: tuple[Any, ...] = ((job.to_wire(),), {}, embed)
        app: JobCelery = self.app

        def submit() -> None:
            text = kombu_message(headers, properties, body, queue, step)
            if len(text) > MOST_BYTES:
                raise InvalidJob(
                    f"the message has {len(text)} bytes, with all that shall follow the job; nodes "
                    f"take at most {MOST_BYTES}: make the chain or group shorter"
                )
            with reachable(app.hub):
                app.records.submit(
                    job_id=headers["id"],
                    spec=job.canonical(),
                    queue=queue,
                    priority_step=step,
                    user_id=job.user_id,
                    max_attempts=job.max_attempts,
                    expires_ms=_expires_ms(job),
                    message=text,
                    needs=needs_of(queue),
                )

        return type(message)(headers, properties, body, sent_event), submit


def route_task(
    name: str, args: Any, kwargs: Any, said: Any = None, task: Any = None, **_: Any
) -> dict[str, Any] | None:
    """Celery's router: the queue of the job's class, and its priority there."""
    if name != TRAIN:
        return None
    way = route(job_of(args, kwargs, None))
    return {"queue": way.queue, "priority": way.priority_step}


def job_of(args: Any, kwargs: Any, task_id: str | None) -> JobConfig:
    """The job in a task's arguments, under the task's id. Raises InvalidJob."""
    given = [*(args or ()), *(kwargs or {}).values()]
    if set(kwargs or {}) - {"config"} or len(given) != 1:
        raise InvalidJob(
            f"train takes one argument, the job's configuration, and got {len(given)}"
            + (f"; {_PIPED}" if len(given) > 1 else "")
        )
    job = given[0].job if type(given[0]) is Checked else JobConfig.parse(given[0])
    if task_id is None or job.job_id == task_id:
        return job
    if job.job_id is None and job.signature is not None:
        raise InvalidJob("job_id: is missing; a signature is over the job's id, so sign it again")
    if job.job_id is not None:
        raise InvalidJob(
            f"job_id: {job.job_id!r} and the task's id {task_id!r} differ; a job has one id, "
            "so leave one of them out"
        )
    return job.with_job_id(task_id)


def signed(args: Any, kwargs: Any, task_id: str | None, key: Any) -> tuple[Any, Any]:
    """``args`` and ``kwargs`` of `train`, in which ``key`` (there or in ``kwargs``) has signed.

    Raises InvalidJob, KeyUnusable. The key itself goes no further.
    """
    given = {name: value for name, value in (kwargs or {}).items() if name != "key"}
    key = (kwargs or {}).get("key") if key is None else key
    if key is None:
        return args, given
    from tasks.trust import sign

    return (sign(job_of(args, given, task_id), key).to_wire(),), {}


def kombu_message(
    headers: Mapping[str, Any],
    properties: Mapping[str, Any],
    body: Sequence[Any],
    queue: str,
    priority_step: int,
) -> str:
    """The message as kombu's Redis transport has it in its list (JSON).

    The form is that of kombu's virtual transports (`kombu.transport.virtual.base.Channel`).
    """
    content_type, content_encoding, data = dumps(body, "json")  # type: ignore[no-untyped-call]  # kombu
    raw = data if isinstance(data, bytes) else data.encode()
    return json.dumps(
        {
            "body": base64.b64encode(raw).decode("ascii"),
            "content-encoding": content_encoding,
            "content-type": content_type,
            "headers": dict(headers),
            "properties": {
                **properties,
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": queue},
                "priority": priority_step,
                "body_encoding": "base64",
                "delivery_tag": uuid(),
            },
        }
    )


def _expires_ms(job: JobConfig) -> int:
    """For `Records.submit`: positive: ms from now; negative: minus the ms since the epoch."""
    if job.expires is None:
        return 0
    if isinstance(job.expires, str):
        return -max(1, round((job.expires_at(0.0) or 0.0) * 1000))
    return max(1, round(job.expires * 1000))


def _following(embed: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """Every signature that runs after this message's task and would get its result."""
    for key in ("chain", "callbacks", "errbacks"):
        yield from (embed or {}).get(key) or ()
    chord = (embed or {}).get("chord")
    if chord:
        yield chord


def _refuse_piping(signature: Mapping[str, Any]) -> None:
    """Raise InvalidJob for a job, here or inside a group or chain, that would get a result."""
    if signature.get("immutable"):
        return
    if signature.get("task") == TRAIN:
        raise InvalidJob(_PIPED)
    kwargs = signature.get("kwargs") or {}
    if signature.get("task") == "celery.group":
        for inner in kwargs.get("tasks") or ():
            _refuse_piping(inner)
    elif signature.get("task") == "celery.chord":  # its header is what runs next
        header = kwargs.get("header") or ()
        for inner in [header] if isinstance(header, Mapping) else header:
            _refuse_piping(inner)
    elif signature.get("task") == "celery.chain":
        for inner in list(kwargs.get("tasks") or ())[:1]:
            _refuse_piping(inner)
