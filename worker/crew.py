"""Threads that are kept from job to job: starting one costs as much as a round trip to Redis."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol


class Crew(Protocol):
    """Runs things beside the caller."""

    def __call__(self, work: Callable[[], None], name: str) -> Callable[[], None]:
        """Begin ``work`` on another thread; returns what waits for its end."""
        ...


def one_off(work: Callable[[], None], name: str) -> Callable[[], None]:
    """A new thread for each."""
    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    return thread.join


class StandingCrew:
    """A few threads that wait for the next job. `close` ends them."""

    def __init__(self, size: int) -> None:
        """``size``: how many things may run at once; one more would wait."""
        self._pool = ThreadPoolExecutor(size, thread_name_prefix="crew")

    def __call__(self, work: Callable[[], None], name: str) -> Callable[[], None]:
        future = self._pool.submit(work)
        return lambda: future.result()

    def close(self) -> None:
        """Wait for what runs, and end."""
        self._pool.shutdown()
