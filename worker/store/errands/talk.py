"""The errand's side of the talk with whoever sent it: one JSON object a line, both ways.

In: first the request, then answers. Out: ``{"at": bytes}`` while it works, ``{"ask": …}`` which
waits for an answer, and last ``{"done": …}`` or ``{"failed": kind, "message": …}``.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any, BinaryIO, Final

from worker.store.trees import TooMuch

_EVERY_S: Final = 0.2


class Unavailable(Exception):
    """The source does not give it."""


class Wrong(Exception):
    """What the source gave is not what it said, or not what may be used."""


class Talk:
    """See the module's docstring."""

    def __init__(self, into: BinaryIO, out: BinaryIO) -> None:
        self._in = into
        self._out = out
        self._told = 0.0
        self._room = 0

    def request(self) -> dict[str, Any]:
        """What is to be done."""
        return self._read()

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Ask, and wait for the answer."""
        self._say({"ask": question})
        return self._read()

    def room(self, size: int) -> None:
        """So many bytes may be written."""
        self._room = size

    def at(self, total: int) -> None:
        """``total`` bytes are about to have been written; asks for room where that is too much."""
        if total > self._room:
            self._room = int(self.ask({"room": total})["room"])
            if total > self._room:
                raise TooMuch(f"no room for {total} bytes")
        self.moved(total)

    def moved(self, total: int) -> None:
        """``total`` bytes are done of what is at hand."""
        now = time.monotonic()
        if now - self._told >= _EVERY_S:
            self._told = now
            self._say({"at": total})

    def done(self, answer: dict[str, Any]) -> None:
        """It is done."""
        self._say({"done": answer})

    def failed(self, kind: str, message: str) -> None:
        """It is not. ``kind``: unavailable, wrong, much, full or broken."""
        self._say({"failed": kind, "message": message[:2000]})

    def _say(self, what: dict[str, Any]) -> None:
        self._out.write(json.dumps(what).encode() + b"\n")
        self._out.flush()

    def _read(self) -> dict[str, Any]:
        line = self._in.readline()
        if not line:  # whoever sent it does not want it any more
            sys.exit(0)
        found = json.loads(line)
        assert isinstance(found, dict)  # noqa: S101 - it is our own parent
        return found
