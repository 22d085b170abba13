"""Waiting on conditions: tests never sleep for a fixed time and hope."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(
    predicate: Callable[[], object], *, timeout: float = 10.0, what: str = "the condition"
) -> None:
    """Return as soon as ``predicate()`` is true; fail after ``timeout`` seconds."""
    until = time.monotonic() + timeout
    while not predicate():
        if time.monotonic() > until:
            raise AssertionError(f"waited {timeout} s for: {what}")
        time.sleep(0.005)
