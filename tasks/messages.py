"""What a Celery message of a job may be: read before Celery reads it, since anybody may push one.

Celery's worker trusts the shape of its messages: a header of the wrong type ends the worker, and
the message comes again when it is back. So whatever is not of the shape that a producer of this
project (or a bare Celery) gives it is put aside, with the reason. Pure.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Collection, Mapping
from typing import Any, Final

from tasks.job import JOB_ID_PATTERN

VERSION: Final = 1
"""Of what a message means. A node refuses any other that is named."""
VERSION_HEADER: Final = "cyxwiz_v"
SENT_HEADER: Final = "cyxwiz_at"
"""When it was sent, with its record: seconds since the epoch, by the producer's clock."""
MOST_BYTES: Final = 16 * 1024 * 1024
"""The largest message: a job is at most 64 KiB, but the rest of a chain travels in it."""
_MOST_DEPTH: Final = 64
_MOST_REASON: Final = 300

_ID: Final = re.compile(JOB_ID_PATTERN)
_TEXT, _WHOLE, _FLAG = (str,), (int,), (bool,)
_HEADERS: Final[Mapping[str, tuple[type, ...]]] = {
    "lang": _TEXT,
    "shadow": _TEXT,
    "expires": _TEXT,
    "group": _TEXT,
    "group_index": _WHOLE,
    "retries": _WHOLE,
    "root_id": _TEXT,
    "parent_id": _TEXT,
    "argsrepr": _TEXT,
    "kwargsrepr": _TEXT,
    "origin": _TEXT,
    "ignore_result": _FLAG,
    "replaced_task_nesting": _WHOLE,
    "redelivered": _FLAG,
    "stamped_headers": (list,),
    "stamps": (dict,),
    SENT_HEADER: _WHOLE,
}
"""The types of headers that a worker reads without looking; each may be missing, or null."""
_PROPERTIES: Final[Mapping[str, tuple[type, ...]]] = {
    "correlation_id": _TEXT,
    "reply_to": _TEXT,
    "priority": _WHOLE,
    "delivery_mode": _WHOLE,
}


class Unfit(ValueError):
    """Why a message is put aside."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason[:_MOST_REASON])


def check_message(raw: bytes | str, tasks: Collection[str]) -> None:
    """Raise Unfit for what no worker may be given. ``raw``: as it lies in the queue's list.

    ``tasks``: the names of the tasks that may be asked for.
    """
    message = check_shape(raw)
    _check_headers(message["headers"], tasks)
    _check_properties(message["properties"])
    _check_body(message, message["properties"])


def check_shape(raw: bytes | str) -> dict[str, Any]:
    """The message, if kombu can read it: all that is asked of what is no job's. Raises Unfit."""
    if len(raw) > MOST_BYTES:
        raise Unfit(f"{len(raw)} bytes; at most {MOST_BYTES}")
    message = _parsed(raw, "the message")
    if not isinstance(message, dict):
        raise Unfit("the message is no object")
    if not all(isinstance(message.get(part), dict) for part in ("headers", "properties")):
        raise Unfit("headers or properties are no object")
    return message


def check_record(raw: bytes | str) -> None:
    """Raise Unfit for what can be no entry of kombu's `unacked`: [message, exchange, key]."""
    entry = _parsed(raw, "the entry") if len(raw) <= MOST_BYTES + 4096 else None
    if not isinstance(entry, list) or len(entry) != 3 or not isinstance(entry[0], dict):
        raise Unfit("no message that a worker was given")
    if not all(isinstance(part, str) for part in entry[1:]):
        raise Unfit("its exchange or queue is no text")
    headers, properties = entry[0].get("headers"), entry[0].get("properties")
    if not isinstance(headers, dict) or not isinstance(properties, dict):
        raise Unfit("headers or properties are no object")


def _check_headers(headers: Mapping[str, Any], tasks: Collection[str]) -> None:
    version = headers.get(VERSION_HEADER, VERSION)
    if version != VERSION or isinstance(version, bool):
        raise Unfit(f"version {version!r:.40} of the message; this node reads {VERSION}")
    task, job_id = headers.get("task"), headers.get("id")
    if not isinstance(task, str) or task not in tasks:
        raise Unfit(f"task {task!r:.100} is none of this node's")
    if not isinstance(job_id, str) or not _ID.match(job_id):
        raise Unfit(f"id {job_id!r:.100} can be no job's")
    _check_types("header", headers, _HEADERS)
    if headers.get("eta") is not None:
        raise Unfit("header eta: a job is queued at once")
    limits = headers.get("timelimit")
    if limits is not None and limits != [None, None]:
        raise Unfit("header timelimit: a job's time-outs stand in its configuration")


def _check_properties(properties: Mapping[str, Any]) -> None:
    _check_types("property", properties, _PROPERTIES)
    if not isinstance(properties.get("delivery_tag"), str):
        raise Unfit("property delivery_tag is no text")
    info = properties.get("delivery_info")
    if not isinstance(info, dict) or not all(
        isinstance(info.get(name), str) for name in ("exchange", "routing_key")
    ):
        raise Unfit("property delivery_info does not say where the message was sent")
    if properties.get("body_encoding") not in ("base64", None):
        raise Unfit("property body_encoding: base64 is read, and nothing else")


def _check_body(message: Mapping[str, Any], properties: Mapping[str, Any]) -> None:
    kind, encoding = message.get("content-type"), message.get("content-encoding")
    if kind != "application/json":
        raise Unfit(f"content-type {kind!r:.60}: JSON is read, and nothing else")
    if encoding != "utf-8":
        raise Unfit(f"content-encoding {encoding!r:.60}: utf-8 is read, and nothing else")
    body: Any = message.get("body")
    if not isinstance(body, str):
        raise Unfit("the body is no text")
    if properties.get("body_encoding") == "base64":
        try:
            body = base64.b64decode(body, validate=True)
        except (binascii.Error, ValueError):
            raise Unfit("the body is no base64") from None
    found = _parsed(body, "the body")
    shape = [type(part) for part in found] if isinstance(found, list) else []
    if shape not in ([list, dict, dict], [list, dict, type(None)]):
        raise Unfit("the body is no list of arguments, keywords and what follows")


def _check_types(
    what: str, given: Mapping[str, Any], types: Mapping[str, tuple[type, ...]]
) -> None:
    for name, allowed in types.items():
        value = given.get(name)
        if value is not None and (type(value) not in allowed):
            raise Unfit(f"{what} {name} is of the type {type(value).__name__}")


def _parsed(text: bytes | str, what: str) -> Any:
    """JSON, not nested too deep for what reads it next."""
    try:
        found = json.loads(text)
    except RecursionError:
        raise Unfit(f"{what} is nested too deep") from None
    except (ValueError, MemoryError):  # a UnicodeDecodeError, too
        raise Unfit(f"{what} is no JSON") from None
    level = [found] if isinstance(found, dict | list) else []
    for _ in range(_MOST_DEPTH):
        if not level:
            return found
        level = [
            inner
            for one in level
            for inner in (one.values() if isinstance(one, dict) else one)
            if isinstance(inner, dict | list)
        ]
    raise Unfit(f"{what} is nested deeper than {_MOST_DEPTH} levels")
