"""Flower for jobs: ``celery -A tasks flower --conf=compose/flowerconfig.py``.

FLOWER_BASIC_AUTH=USER:PASSWORD (or Flower's own OAuth) must be set: Flower does not start without.
CYXWIZ_FLOWER_PROFILE is ``read-only`` (the default) or ``operator``, who may cancel jobs, by Revoke
and Terminate, and do nothing else: Flower's other buttons would break a slot, which is one worker
with one child, or submit what nobody has validated. Nothing is open without a password but
``/healthcheck``; Flower alone would leave its metrics open.

The Result column says what the job's record says: how far it is while it runs, then how it ended.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from typing import Any

import redis
from celery.events import state as celery_state
from flower.views import BaseHandler
from tornado import web
from tornado.options import options

from tasks.celery import app
from tasks.publishing import TRAIN

PROFILES = ("read-only", "operator")
_FIELDS = ("state", "reason", "error", "progress", "result", "attempt", "node", "slot")
_STATES = {
    # what Flower calls it: by these it chooses which button a page has
    "queued": "RECEIVED",
    "starting": "STARTED",
    "running": "STARTED",
    "paused": "STARTED",
    "succeeded": "SUCCESS",
    "failed": "FAILURE",
    "rejected": "FAILURE",
    "cancelled": "REVOKED",
}
_MAY_BE_POSTED = re.compile(r"(/[^/]+)*/(api/task/revoke/[^/]+|tasks/datatable|login)/?")


class Patience:
    """For how long a page waits for Redis: its rows are asked for one by one, on Flower's only
    thread, and a Redis that hangs must not hold that up for each."""

    A_PAGE = 1.0
    """Seconds, all rows together."""
    PAUSE = 5.0
    """Seconds for which a Redis that did not answer is not asked."""

    def __init__(self) -> None:
        self._left = self.A_PAGE
        self._again = 0.0

    def new_page(self) -> None:
        self._left = self.A_PAGE

    def ask(self, question: Callable[[], Any]) -> Any:
        """Its answer; None where there is none, or no time for one."""
        begin = time.monotonic()
        if self._left <= 0 or begin < self._again:
            return None
        try:
            return question()
        except (redis.ConnectionError, redis.TimeoutError):
            self._again = time.monotonic() + self.PAUSE
            return None
        except (redis.RedisError, ValueError):  # Redis is there: this one record is broken
            return None
        finally:
            self._left -= time.monotonic() - begin


_patience = Patience()
_records = app.hub.connect(timeout=Patience.A_PAGE)


def _profile() -> str:
    found = os.environ.get("CYXWIZ_FLOWER_PROFILE") or PROFILES[0]
    if found not in PROFILES:
        raise SystemExit(f"CYXWIZ_FLOWER_PROFILE={found!r}: {' or '.join(PROFILES)} is needed")
    logins = options.basic_auth or []
    if not (options.auth or logins) or any(not re.fullmatch(r"[^:]+:.+", one) for one in logins):
        raise SystemExit(
            "Flower shows every job, so it needs a password: set FLOWER_BASIC_AUTH=USER:PASSWORD, "
            "or Flower's own OAuth options"
        )
    return found


def summary(record: dict[str, str | None]) -> str:
    """How far a job is, or how it ended, in a line. Raises ValueError, TypeError, OverflowError or
    RecursionError for a broken record."""
    state, attempt = record["state"], int(record["attempt"] or 0)
    if state in ("starting", "running", "paused"):
        said = [] if state == "running" else [state]
        return "  ".join([*said, *_progress(_object(record["progress"]))]) or str(state)
    if state == "succeeded":
        metrics = _object(record["result"]).get("metrics")
        return "  ".join(["succeeded", *_numbers(metrics if isinstance(metrics, dict) else {})])
    if state == "queued":
        return f"queued again, after attempt {attempt}: {record['reason']}" if attempt else "queued"
    why = ": ".join(filter(None, (record["reason"], record["error"])))
    return f"{state}: {why}" if why else str(state)


def _progress(event: dict[str, Any]) -> list[str]:
    part, total = event.get("progress"), event.get("total_epochs")
    said = [f"{part:.0%}"] if isinstance(part, int | float) and total else []
    said += [f"epoch {event.get('epoch', 0)}/{total}"] if total else []
    named = {name: event.get(name) for name in ("loss", "accuracy")}
    return said + _numbers(named)


def _numbers(values: dict[str, Any]) -> list[str]:
    return [
        f"{name} {value:.4g}"
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]


def _object(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def format_task(task: Any) -> Any:
    """A task as it is shown. One that is no job, or a Redis that is away: as Flower knows it."""
    values = _patience.ask(lambda: _records.hmget(app.hub.keys.job(task.uuid), _FIELDS))
    if values is None:
        return task
    record = dict(zip(_FIELDS, values, strict=True))
    if record["state"] is None:
        return task
    task.name = task.name or TRAIN  # Flower may have been started later than the job
    task.state = _STATES.get(record["state"], task.state)
    try:
        task.result = summary(record)
    except (ValueError, TypeError, OverflowError, RecursionError):
        task.result = f"{record['state']}: its record is broken"
    return task


def _refuse(self: Any) -> None:
    """Before each request: who it is, and whether that may be asked."""
    _patience.new_page()
    if not self.request.path.endswith("/healthcheck"):
        self.get_current_user()  # of basic auth: raises 401
    if self.request.method in ("GET", "HEAD", "OPTIONS"):
        return
    if not _MAY_BE_POSTED.fullmatch(self.request.path):
        raise web.HTTPError(403, "only jobs can be cancelled here")


def _prepare(before: Any) -> Any:
    def prepare(self: Any) -> Any:
        _refuse(self)
        return before(self)

    return prepare


def _guard() -> None:
    """Every handler of Flower's asks `_refuse` first."""
    from flower import urls

    handlers = {entry.handler_class if hasattr(entry, "handler_class") else entry[1]
                for entry in urls.handlers}  # fmt: skip
    for handler in handlers:
        if issubclass(handler, BaseHandler) and "prepare" not in vars(handler):
            handler.prepare = _prepare(handler.prepare)


# progress is no state of its own: a job that reports it is a started one, with its buttons
celery_state.TASK_EVENT_TO_STATE["progress"] = "STARTED"
read_only = _profile() == "read-only"
_guard()
address = os.environ.get("FLOWER_ADDRESS") or "127.0.0.1"
tasks_columns = "name,uuid,state,result,received,runtime,worker"
max_tasks = 20_000
