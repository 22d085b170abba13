"""The audit of a node: who ran what, where, in which sandbox, and how it ended. Append-only.

One JSON object a line, in one file for all slots of the node. A line is written before anything of
an attempt is started (an attempt that cannot be written down is not started), and one at its end.
Each names the SHA-256 of the line before it, so a line that is changed, taken out or put in between
shows (`check`); what the end of the file lost does not, so send the lines elsewhere as they come.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any, Final

from tasks.errors import CyxWizError

_MOST_LINE: Final = 64 * 1024
"""Bytes; longer fields are cut."""
_MOST_LIKELY: Final = 2 * 1024
_MOST_TEXT: Final = 2_000


class AuditBroken(CyxWizError):
    """A line of the audit does not follow from the one before; the message says which."""


class Audit:
    """Writes for one slot. Processes and threads may write to one file at once."""

    def __init__(self, path: Path, *, node: str, slot: str) -> None:
        self._path = path
        self._who = {"node": node, "slot": slot}

    def write(self, event: str, **fields: Any) -> None:
        """Append a line. Raises OSError: it could not be written whole."""
        fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            end = os.fstat(fd).st_size
            entry = {"at": round(time.time(), 3), "event": event, **self._who, **_short(fields)}
            line = _line({**entry, "before": _digest_of_last(fd, end)})
            if os.write(fd, line) != len(line):
                os.ftruncate(fd, end)
                raise OSError(f"{self._path}: there was no room for a line")
        finally:
            os.close(fd)  # and the lock with it


def check(path: Path) -> int:
    """How many lines there are, each of which follows from the one before.

    Raises AuditBroken, OSError.
    """
    before, count = "", 0
    with path.open("rb") as file:
        for count, line in enumerate(file, 1):
            try:
                said = json.loads(line)["before"]
            except (ValueError, KeyError, TypeError):
                raise AuditBroken(f"{path}:{count}: is no line of an audit") from None
            if said != before and (count > 1 or said != ""):
                raise AuditBroken(
                    f"{path}:{count}: does not follow from the line before: one of the two was "
                    "changed, or some between them were taken out"
                )
            before = hashlib.sha256(line).hexdigest()
    return count


def _line(entry: dict[str, Any]) -> bytes:
    text = json.dumps(entry, separators=(",", ":"), default=str)
    if len(text) > _MOST_LINE:  # of many fields at once: what identifies it is what counts
        kept = ("at", "event", "node", "slot", "job", "attempt", "fence", "spec", "before")
        text = json.dumps({**{name: entry[name] for name in kept if name in entry}, "cut": True})
    return text.encode() + b"\n"


def _short(fields: dict[str, Any]) -> dict[str, Any]:
    def cut(value: Any) -> Any:
        long = isinstance(value, str) and len(value) > _MOST_TEXT
        return f"{value[:_MOST_TEXT]}…" if long else value

    return {name: cut(value) for name, value in fields.items()}


def _digest_of_last(fd: int, end: int) -> str:
    """Of the last line, with its end; '' where there is none."""
    size = _MOST_LIKELY
    while True:
        start = max(0, end - size)
        tail = os.pread(fd, end - start, start)
        begin = tail[:-1].rfind(b"\n") + 1
        if begin or not start or size > _MOST_LINE:
            return hashlib.sha256(tail[begin:]).hexdigest() if tail else ""
        size *= 8
