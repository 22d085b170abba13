"""The agent's log: event names and fields, as key=value or JSON lines on stderr."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, Final, TextIO

LOGGER: Final = "cyxwiz.node"


def event(name: str, *, level: int = logging.INFO, **fields: Any) -> None:
    """Say that ``name`` (such as ``slot.started``) happened, with what belongs to it."""
    logging.getLogger(LOGGER).log(level, name, extra={"fields": fields})


def configure(*, as_json: bool = False, stream: TextIO | None = None) -> None:
    """Send events to ``stream`` (stderr). For a process's entry point, once."""
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(_Lines(as_json=as_json))
    logger = logging.getLogger(LOGGER)
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


class _Lines(logging.Formatter):
    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        content = {
            "ts": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            content["error"] = self.formatException(record.exc_info)
        if self._as_json:
            return json.dumps(content, default=str)
        return " ".join(f"{key}={_plain(value)}" for key, value in content.items())


def _plain(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    quoted = not text or any(sign.isspace() or sign in '="' for sign in text)
    return json.dumps(text) if quoted and isinstance(value, str) else text
