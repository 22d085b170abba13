"""Listens on the node's channel: whatever is said there has the agent look at Redis at once."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
from collections.abc import Callable
from typing import Any, Final

import redis

from tasks.settings import Settings
from worker.subscription import arrived

log = logging.getLogger(__name__)

_AGAIN_S: Final = 2.0
_HEALTH_S: Final = 15.0
"""Silence after which the connection is tried: a broken one may say nothing."""


class NodeOrders:
    """A thread. A channel that is deaf costs time, not orders: the next heartbeat brings them."""

    def __init__(self, settings: Settings, node: str, look: Callable[[], None]) -> None:
        """``look``: called from the thread."""
        self._settings = settings
        self._channel = settings.keys.orders(node)
        self._look = look
        self._ended = False
        self._hears, self._rung = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._thread = threading.Thread(target=self._run, name="node-orders", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End. Safe to call twice."""
        if self._ended:
            return
        self._ended = True
        os.write(self._rung, b"!")
        if self._thread.is_alive():
            self._thread.join()
        for fd in (self._hears, self._rung):
            os.close(fd)

    def _run(self) -> None:
        with contextlib.closing(self._settings.connect(timeout=5.0)) as client:
            while not self._ended:
                try:
                    # redis-py has no hints for pubsub()
                    with client.pubsub() as pubsub:  # type: ignore[no-untyped-call]
                        pubsub.subscribe(self._channel)
                        self._listen(pubsub)
                except redis.RedisError as error:
                    log.warning("node_orders.deaf error=%s", error)
                    select.select([self._hears], [], [], _AGAIN_S)
                except Exception:  # nobody would listen any more
                    log.exception("node_orders.broken")
                    select.select([self._hears], [], [], _AGAIN_S)

    def _listen(self, pubsub: Any) -> None:
        """Raises redis.RedisError."""
        while not self._ended:
            for message in arrived(pubsub):
                if message["type"] in ("subscribe", "message"):
                    self._look()
            # redis-py gives no public way to the socket; kombu takes this one too
            waited = [self._hears, pubsub.connection._sock]  # noqa: SLF001
            ready, _, _ = select.select(waited, [], [], _HEALTH_S)
            if not ready:
                pubsub.ping()
