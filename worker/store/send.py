"""Sends an errand (`worker.store.errands`) and waits for it: no longer than it moves, and only as
long as it is wanted."""

from __future__ import annotations

import json
import logging
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from worker.store.refusals import DataRefused, DataUnavailable, NoRoom, StoreError

log = logging.getLogger(__name__)

_LOOK_S: Final = 0.1
_MOST_LINE: Final = 256 << 20
_START: Final = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from worker.store.errands.main import main; main(int(sys.argv[2]))"
)


def _nothing(_: int) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """How an errand is waited for."""

    stall: float
    """Seconds that it may stand still."""
    check: Callable[[], None] = lambda: None
    """Called again and again; raises to end it."""
    moved: Callable[[int], None] = _nothing
    """Told the bytes that are done."""


class TooLarge(DataRefused):
    """More bytes or files than were allowed."""


def send(
    request: Mapping[str, Any],
    answer: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    waiting: Waiting,
) -> dict[str, Any]:
    """What the errand brought back. ``answer``: to what it asks.

    Raises DataUnavailable, DataRefused, TooLarge, NoRoom, and what ``answer`` and ``check`` raise.
    """
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, "-P", "-X", "utf8", "-c", _START, _root(), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            cwd="/",
            bufsize=0,
            start_new_session=True,  # a signal to the slot's group is not for it
        )
        try:
            return _Conversation(process, waiting).hold(request, answer)
        except _Gone:
            words = _last_words(said)
            log.error("errand.died errand=%s said=%s", request["errand"], words)
            raise DataUnavailable(f"the {request['errand']} broke down: {words}") from None
        finally:
            process.kill()
            process.communicate()


class _Gone(Exception):
    """It ended without a word."""


class _Conversation:
    def __init__(self, process: subprocess.Popen[bytes], waiting: Waiting) -> None:
        assert process.stdin is not None  # noqa: S101 - for the type checker
        assert process.stdout is not None  # noqa: S101 - for the type checker
        self._in, self._out = process.stdin, process.stdout
        self._waiting = waiting
        self._buffer = bytearray()

    def hold(
        self, request: Mapping[str, Any], answer: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    ) -> dict[str, Any]:
        self._tell(request)
        while True:
            said = self._next()
            if "at" in said:
                self._waiting.moved(int(said["at"]))
            elif "ask" in said:
                self._tell(answer(said["ask"]))
            elif "done" in said:
                done: dict[str, Any] = said["done"]
                return done
            else:
                raise _failure(str(said["failed"]), str(said["message"]))

    def _tell(self, what: Mapping[str, Any]) -> None:
        try:
            self._in.write(json.dumps(what).encode() + b"\n")
        except BrokenPipeError:
            raise _Gone from None

    def _next(self) -> dict[str, Any]:
        quiet_since = time.monotonic()
        while (end := self._buffer.find(b"\n")) < 0:
            self._waiting.check()
            if select.select([self._out], [], [], _LOOK_S)[0]:
                block = os.read(self._out.fileno(), 1 << 20)
                if not block or len(self._buffer) > _MOST_LINE:
                    raise _Gone
                self._buffer += block
            elif time.monotonic() - quiet_since > self._waiting.stall:
                raise DataUnavailable(
                    f"nothing moved for {self._waiting.stall:g} s (timeouts.transfer)"
                )
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        found: dict[str, Any] = json.loads(line)
        return found


def _failure(kind: str, message: str) -> StoreError:
    match kind:
        case "wrong":
            return DataRefused(message)
        case "much":
            return TooLarge(message)
        case "full":
            return NoRoom(message)
        case _:
            return DataUnavailable(message)


def _last_words(said: IO[bytes]) -> str:
    said.seek(max(0, said.seek(0, os.SEEK_END) - 2000))
    lines = said.read().decode(errors="replace").strip().splitlines()
    return lines[-1][:500] if lines else "it was ended"


def _root() -> str:
    return str(Path(__file__).resolve().parents[2])
