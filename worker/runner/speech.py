"""What the runner says: one JSON object a line, on the stdout that it was started with.

Frameworks print; so the real stdout is kept aside, and what anything else prints goes to stderr,
where it is log.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, Self


class Speech:
    """Writes whole lines, from any thread."""

    def __init__(self, job_id: str, fd: int) -> None:
        self._job_id = job_id
        self._fd = fd
        self._lock = threading.Lock()

    @classmethod
    def take_stdout(cls, job_id: str) -> Self:
        """Keep stdout for the protocol; from now on prints go to stderr."""
        sys.stdout.flush()
        kept = os.dup(1)
        os.dup2(2, 1)
        return cls(job_id, kept)

    def progress(self, *, epoch: int, total_epochs: int, metrics: Mapping[str, float]) -> None:
        """One epoch is over. NaN and infinities are left out: JSON has no word for them."""
        finite = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
        self._say("progress", epoch=epoch, total_epochs=total_epochs, **finite)

    def checkpoint(self, *, epoch: int, path: str, sha256: str) -> None:
        """A checkpoint was saved."""
        self._say("checkpoint", epoch=epoch, path=path, sha256=sha256)

    def succeeded(self, *, model_path: str, sha256: str, metrics: Mapping[str, float]) -> None:
        """The last word of a training that came to its end."""
        finite = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
        self._say(
            "complete",
            success=True,
            model_path=model_path,
            sha256=sha256,
            metrics=finite,
            error="",
        )

    def failed(self, error: str) -> None:
        """The last word of one that did not."""
        self._say("complete", success=False, model_path="", error=error)

    def _say(self, kind: str, **fields: Any) -> None:
        line = {"type": kind, "job_id": self._job_id, **fields, "timestamp": round(time.time(), 3)}
        data = json.dumps(line).encode() + b"\n"
        with self._lock:
            while data:
                data = data[os.write(self._fd, data) :]
