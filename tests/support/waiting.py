"""Waiting on conditions: tests never sleep for a fixed time and hope."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(
    predicate: Callable[[], object],
    *,
    timeout: float = 10.0,
    what: str | Callable[[], str] = "the condition",
) -> None:
    """Return as soon as ``predicate()`` is true; fail after ``timeout`` seconds.

    ``what`` is waited for; where that is a call, as it is by then.
    """
    until = time.monotonic() + timeout
    while not predicate():
        if time.monotonic() > until:
            said = what if isinstance(what, str) else what()
            raise AssertionError(f"waited {timeout} s for: {said}")
        time.sleep(0.005)
