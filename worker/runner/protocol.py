"""What the runner says: one JSON object a line, on a descriptor that nobody else can write to.

Frameworks print. So the process's stdout is kept for the protocol under another descriptor, and
what anybody prints to stdout from then on goes to stderr, where it is log.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_MOST_ERROR: Final = 1000
"""Characters; the node cuts longer texts."""


def own_stdout() -> int:
    """Keep stdout for the protocol and send every print to stderr; the protocol's descriptor."""
    sys.stdout.flush()
    mine = os.dup(1)  # not inherited by programs that a library starts
    os.dup2(2, 1)
    return mine


class Reporter:
    """Writes the protocol's lines."""

    def __init__(self, fd: int, job_id: str = "") -> None:
        self._fd = fd
        self.job_id = job_id
        """May be set when it is known: a job that cannot be read has none."""

    def progress(
        self, epoch: int, total_epochs: int, loss: float | None, **metrics: float | None
    ) -> None:
        """One epoch is over (or, with ``step``, goes on). What is not finite is left out."""
        self._say("progress", epoch=epoch, total_epochs=total_epochs, loss=loss, **metrics)

    def checkpoint(self, epoch: int, path: Path, sha256: str) -> None:
        """A checkpoint was saved: ``epoch`` epochs are in it."""
        self._say("checkpoint", epoch=epoch, path=str(path), sha256=sha256)

    def succeeded(self, model: Path, sha256: str, metrics: Mapping[str, float]) -> None:
        """The last line of a run that ended well."""
        self._say(
            "complete",
            success=True,
            model_path=str(model),
            sha256=sha256,
            metrics=_finite(metrics),
            error="",
        )

    def failed(self, error: str) -> None:
        """The last line of a run that did not."""
        if len(error) > _MOST_ERROR:
            error = error[: _MOST_ERROR - 1] + "…"
        self._say("complete", success=False, model_path="", error=error)

    def _say(self, kind: str, **fields: Any) -> None:
        whose = {"job_id": self.job_id} if self.job_id else {}
        said = {"type": kind, **whose, **_finite(fields), "timestamp": time.time()}
        line = json.dumps(said, allow_nan=False).encode() + b"\n"
        while line:
            line = line[os.write(self._fd, line) :]


def log(text: str) -> None:
    """A line for people."""
    print(text, file=sys.stderr, flush=True)


def _finite(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Without None and what JSON cannot say; numpy's numbers as plain ones."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        if value is None:
            continue
        if not isinstance(value, str | bool | int | float | dict | list):
            value = float(value)
        if isinstance(value, float) and not math.isfinite(value):
            continue
        found[name] = value
    return found
