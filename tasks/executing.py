"""Runs a command beside a running job, and gives what it says as it comes."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import redis

from tasks.control import AGAIN_S, TRIES, NotRunning
from tasks.errors import ExecFailed, ExecRefused
from tasks.exec_request import BEAT_S, SECONDS, ExecRequest
from tasks.state import JobState

if TYPE_CHECKING:
    from tasks.publishing import JobCelery
    from tasks.trust import SigningKey

_ANSWER_WITHIN_S: Final = 15.0
_SILENT_FOR_S: Final = 5 * BEAT_S
_BLOCK_MS: Final = 1_000
_CODE: Final = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """Bytes that the command wrote."""

    stream: str
    """stdout or stderr."""
    data: bytes


def execute(
    job_id: str,
    argv: Sequence[str],
    *,
    key: SigningKey,
    seconds: float = SECONDS,
    app: JobCelery,
) -> Generator[Output | int, None, None]:
    """What the command says, as it comes; last, its exit code.

    ``key``: one that the job's node trusts with this (``scope.exec``). ``seconds``: after which the
    node ends it. Whoever closes this ends it.

    Raises UnknownJob, NotRunning, WrongExec, ExecRefused, ExecFailed, RedisUnavailable.
    """
    from tasks.publishing import reachable

    with reachable(app.hub):
        for left in reversed(range(TRIES)):
            record = app.records.get(job_id)
            channel = app.hub.keys.control(record.node, job_id)
            request = ExecRequest.new(job_id, record.node, argv, seconds, key)
            heard = record.state is JobState.RUNNING and app.records.client.publish(
                channel, json.dumps(request.signed(key))
            )
            if heard or record.state is not JobState.RUNNING or not left:
                break
            time.sleep(AGAIN_S)
        if not heard:
            raise NotRunning(
                f"job {job_id} is {record.state}: a command runs beside a running job only"
            )
        stream, over = app.hub.keys.exec(request.token), False
        try:
            for found in _answers(app.records.client, stream, record.node):
                over = isinstance(found, int)
                yield found
        except ExecFailed:
            over = True
            raise
        finally:
            if not over:
                app.records.client.publish(channel, json.dumps(request.ending()))


def _answers(client: redis.Redis, stream: str, node: str) -> Iterator[Output | int]:
    last, begun = "0", False
    patience = time.monotonic() + _ANSWER_WITHIN_S
    while True:
        found: Any = client.xread({stream: last}, block=_BLOCK_MS)
        for last, entry in found[0][1] if found else ():  # noqa: B007 - where to go on
            begun = True
            patience = time.monotonic() + _SILENT_FOR_S
            said = _parse(entry)
            if said is not None:
                yield said
            if isinstance(said, int):
                return
        if time.monotonic() > patience:
            raise ExecFailed(
                f"node {node} says nothing any more: the slot of the job has lost its worker, or "
                "Redis; the command was ended with it"
                if begun
                else f"node {node} does not answer: it runs a version without exec, or is busy"
            )


def _parse(entry: Mapping[str, str]) -> Output | int | None:
    """Raises ExecFailed, ExecRefused."""
    match entry.get("t"):
        case "out":
            try:
                data = base64.b64decode(entry.get("d", ""), validate=True)
            except ValueError:  # binascii.Error, or what is no ASCII
                data = b""
            return Output(stream="stderr" if entry.get("s") == "stderr" else "stdout", data=data)
        case "end":
            code = entry.get("code", "")
            if not _CODE.fullmatch(code):
                raise ExecFailed(entry.get("why") or "the node does not know how it ended")
            return int(code)
        case "refused":
            raise ExecRefused(f"refused: {entry.get('why', '')}")
    return None
