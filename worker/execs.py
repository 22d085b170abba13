"""Commands that operators run beside an attempt: one at a time, bounded, and written down."""

from __future__ import annotations

import base64
import logging
import threading
import time
from collections.abc import Mapping
from typing import Any, Final

import redis

from tasks.errors import KeeperError, WrongExec
from tasks.exec_request import BEAT_S, EXEC_END, MOST_OUTPUT, STREAM_TTL_S, ExecRequest
from tasks.job import JobConfig
from tasks.recorded import Claimed
from worker.audited import Audited
from worker.parts import NodeParts
from worker.runtimes.base import Beside, Handle, Status, Stream
from worker.stream.masking import Mask
from worker.trust.commanding import Denied, NotAsked, asker, commander

log = logging.getLogger(__name__)

_POLL_S: Final = 0.1
_GATHER_S: Final = 0.1
_GATHER_BYTES: Final = 1 << 16
_NONCE_MS: Final = 2 * 3_600_000
"""Longer than a command may run and its answer stays."""


class Execs:
    """Of one attempt. `order` comes from the orders' thread, `close` from the supervisor's."""

    def __init__(self, parts: NodeParts, claim: Claimed, audited: Audited) -> None:
        self._parts = parts
        self._claim = claim
        self._audited = audited
        self._stop = threading.Event()
        self.mask: Mask | None = None
        """Of the job's secrets; set before the attempt runs."""
        self._lock = threading.Lock()
        self._closed = False
        self._running: ExecRequest | None = None
        self._thread: threading.Thread | None = None

    def order(self, order: Mapping[str, Any], handle: Handle | None) -> None:
        """``handle``: of the attempt that runs; None: it does not yet. Never raises."""
        running = self._running
        if order.get("op") == EXEC_END:
            if running is not None and running.ended_by(order):
                self._stop.set()
            return
        try:
            request = ExecRequest.parse(order)
        except WrongExec as error:
            log.warning("exec.unreadable job=%s error=%s", self._claim.lease.job_id, error)
            return
        answer = Answer(self._parts.records.client, self._parts.settings.keys.exec(request.token))
        try:
            key = self._admitted(order, request, running)
            if handle is None or handle.status() is not Status.RUNNING:
                raise Denied("the job does not run now (resume it, if it is paused)")
            if running is not None:
                raise Denied("another command runs beside the job; one does at a time")
            with self._lock:
                self._begin(request, key, handle, answer)
        except NotAsked as error:
            log.warning("exec.not_asked job=%s why=%s", self._claim.lease.job_id, error)
        except Denied as error:
            log.warning("exec.refused job=%s why=%s", request.job_id, error)
            answer.last(t="refused", why=str(error))
        except redis.RedisError as error:
            log.warning("exec.unanswered job=%s error=%s", request.job_id, error)

    def close(self) -> None:
        """End the command that runs; none does from now on."""
        with self._lock:
            self._closed = True
            self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _admitted(
        self, order: Mapping[str, Any], request: ExecRequest, running: ExecRequest | None
    ) -> str:
        """The name of the key whose request it is, which is used up by this.

        What was heard on the channel can be said again, here or elsewhere: it spoils no answer.
        Raises Denied, NotAsked, redis.RedisError.
        """
        parts, lease = self._parts, self._claim.lease
        if (request.job_id, request.node) != (lease.job_id, parts.place.node):
            raise NotAsked(f"it is for job {request.job_id!r:.80} on node {request.node!r:.80}")
        if running is not None and running.token == request.token:
            raise NotAsked("it runs")
        key, stamp = asker(order, request, parts.keyring)
        if key is not None:
            nonce = parts.settings.keys.nonce(f"{stamp.key_id}:{stamp.nonce}")
            if not parts.records.client.set(nonce, f"exec:{request.token}", nx=True, px=_NONCE_MS):
                raise NotAsked("the request was used before")
        return commander(
            key,
            stamp,
            JobConfig.parse(self._claim.spec),
            parts.keyring,
            allowed=parts.config.trust.allow_exec,
            now=time.time(),
        ).name

    def _begin(self, request: ExecRequest, key: str, handle: Handle, answer: Answer) -> None:
        """Raises Denied: the attempt ends, or it cannot be written down."""
        if self._closed:
            raise Denied("the job ends")
        self._audited.commanded(key, request.argv, request.seconds)
        self._stop.clear()
        self._running = request
        self._thread = threading.Thread(
            target=self._run, args=(request, handle, answer), name="exec", daemon=True
        )
        self._thread.start()

    def _run(self, request: ExecRequest, handle: Handle, answer: Answer) -> None:
        code, why, command = None, "", None
        try:
            answer.say(t="begun")
            command = handle.exec(request.argv)
            code, why = self._passed_on(command, request.seconds, answer)
        except KeeperError as error:
            why = str(error)
        except redis.RedisError as error:
            why = f"Redis is away, and the command was ended: {error}"
        finally:
            if command is not None:
                command.close()
            self._audited.command_ended(code, why)
            self._running = None
            answer.last(t="end", code="" if code is None else str(code), why=why)

    def _passed_on(self, command: Beside, seconds: float, answer: Answer) -> tuple[int | None, str]:
        """The exit code, or why there is none. Raises KeeperError, redis.RedisError."""
        until, room = time.monotonic() + seconds, MOST_OUTPUT
        masked = Masked(self.mask, answer)
        while not self._stop.is_set():
            now = time.monotonic()
            if now >= until:
                return None, f"it took longer than {seconds:g} s, and was ended"
            found = command.read(min(_POLL_S, until - now))
            if isinstance(found, int):
                masked.flush()
                return found, ""
            if found is not None:
                stream, data = found
                masked.output(stream, data[:room])
                room -= len(data)
                if room < 0:
                    return None, f"it wrote more than {MOST_OUTPUT} bytes, and was ended"
            answer.tick()
        return None, "nobody waits for it any more, or the job ends"


class Masked:
    """Output with the job's secrets taken out: by whole lines, for one may come in pieces."""

    def __init__(self, mask: Mask | None, answer: Answer) -> None:
        self._mask = mask
        self._answer = answer
        self._rest = dict.fromkeys(Stream, b"")
        """The beginnings of lines: no more than a command may write."""

    def output(self, stream: Stream, data: bytes) -> None:
        """Raises redis.RedisError."""
        if self._mask is None:
            self._answer.output(stream, data)
            return
        *lines, rest = (self._rest[stream] + data).split(b"\n")
        self._rest[stream] = rest
        for line in lines:
            self._answer.output(stream, self._mask.line(line, cut=False) + b"\n")

    def flush(self) -> None:
        """The command has ended, and so has each line. Raises redis.RedisError."""
        for stream, rest in self._rest.items():
            if rest and self._mask is not None:
                self._answer.output(stream, self._mask.line(rest, cut=False))


class Answer:
    """What the one who asked gets to know. A stream that goes by itself."""

    def __init__(self, client: redis.Redis, stream: str) -> None:
        self._client = client
        self._stream = stream
        self._gathered = bytearray()
        self._of = Stream.STDOUT
        self._since = 0.0
        self._said = 0.0

    def say(self, **entry: str) -> None:
        """Raises redis.RedisError."""
        pipe = self._client.pipeline(transaction=False)
        fields: Any = entry  # redis-py's hint is of an invariant mapping
        pipe.xadd(self._stream, fields)
        pipe.expire(self._stream, STREAM_TTL_S)
        pipe.execute()
        self._said = time.monotonic()

    def last(self, **entry: str) -> None:
        """The last entry, after what was gathered. Never raises."""
        try:
            self._flush()
            self.say(**entry)
        except redis.RedisError as error:
            log.warning("exec.unanswered stream=%s error=%s", self._stream, error)

    def output(self, stream: Stream, data: bytes) -> None:
        """What comes in small pieces goes on in larger ones. Raises redis.RedisError."""
        if stream is not self._of:
            self._flush()
            self._of = stream
        if not self._gathered:
            self._since = time.monotonic()
        self._gathered += data
        if len(self._gathered) >= _GATHER_BYTES:
            self._flush()

    def tick(self) -> None:
        """Time has passed. Raises redis.RedisError."""
        now = time.monotonic()
        if self._gathered and now - self._since >= _GATHER_S:
            self._flush()
        elif now - self._said >= BEAT_S:
            self.say(t="beat")

    def _flush(self) -> None:
        if self._gathered:
            data = base64.b64encode(bytes(self._gathered)).decode()
            self._gathered.clear()
            self.say(t="out", s=str(self._of), d=data)
