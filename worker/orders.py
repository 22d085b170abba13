"""What a running attempt is asked to do, over its job's control channel.

The channel is a hint that makes things quick: a cancel stands in the record too, and the next
renewal brings it.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

import redis

from tasks.settings import Settings

log = logging.getLogger(__name__)

_POLL_S = 0.2
_AGAIN_S = 1.0


class Orders:
    """Listens for one job at a time; the connection stays open between jobs."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pubsub: Any = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def listen(self, job_id: str, handle: Callable[[str, Mapping[str, Any]], None]) -> None:
        """Call ``handle(op, order)`` from a thread of its own for each order of ``job_id``."""
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(job_id, handle, self._stop), name="orders", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Listen no more. Does not wait: the thread ends by itself within a moment."""
        self._stop.set()
        self._thread = None

    def _run(
        self,
        job_id: str,
        handle: Callable[[str, Mapping[str, Any]], None],
        stop: threading.Event,
    ) -> None:
        channel = self._settings.keys.control(job_id)
        client = self._settings.connect(timeout=5.0)
        try:
            while not stop.is_set():
                try:
                    self._listen(client, channel, handle, stop)
                except redis.RedisError as error:
                    log.warning("orders.deaf job=%s error=%s", job_id, error)
                    stop.wait(_AGAIN_S)
        finally:
            client.close()

    def _listen(
        self,
        client: redis.Redis,
        channel: str,
        handle: Callable[[str, Mapping[str, Any]], None],
        stop: threading.Event,
    ) -> None:
        # redis-py has no hints for pubsub()
        with client.pubsub(ignore_subscribe_messages=True) as pubsub:  # type: ignore[no-untyped-call]
            pubsub.subscribe(channel)
            while not stop.is_set():
                message = pubsub.get_message(timeout=_POLL_S)
                if message is None:
                    continue
                try:
                    order = json.loads(message["data"])
                    op = str(order["op"])
                except (ValueError, KeyError, TypeError):
                    log.warning("orders.unreadable channel=%s", channel)
                    continue
                handle(op, order)
