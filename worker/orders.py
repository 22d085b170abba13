"""What a running attempt is asked to do, over its job's control channel.

The channel is a hint that makes things quick: a cancel stands in the record too, and the next
renewal brings it.

One connection and one thread serve a slot for as long as it lives; only the subscription changes
from job to job. (A new connection for each job would cost more than all its events.)
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import redis

from tasks import jsonvalue
from tasks.settings import Settings
from worker.subscription import arrived

log = logging.getLogger(__name__)

_AGAIN_S = 1.0
_HEALTH_S = 15.0
"""Silence after which the connection is tried: a broken one may say nothing."""


class OrderListener(Protocol):
    """Who is told. Called from the thread of `Orders`."""

    def order(self, op: str, order: Mapping[str, Any]) -> None:
        """cancel, pause, resume or checkpoint was asked for."""
        ...

    def listening(self) -> None:
        """Orders are heard from now on; one of before may stand in the record."""
        ...


@dataclass(frozen=True, slots=True)
class _Wish:
    channel: str
    listener: OrderListener


class Orders:
    """Listens for one job at a time."""

    def __init__(self, settings: Settings, node: str) -> None:
        """``node``: this node's name. Nothing is connected before the first `listen`."""
        self._settings = settings
        self._node = node
        self._wish: _Wish | None = None
        self._lock = threading.Lock()
        self._ended = False
        self._bell: tuple[int, int] | None = None
        self._thread: threading.Thread | None = None

    def listen(self, job_id: str, listener: OrderListener) -> None:
        """Tell ``listener`` of each order for ``job_id``, and of no other job's any more."""
        with self._lock:
            self._wish = _Wish(self._settings.keys.control(self._node, job_id), listener)
            if self._thread is None:
                self._bell = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
                self._thread = threading.Thread(target=self._run, name="orders", daemon=True)
                self._thread.start()
        self._ring()

    def stop(self) -> None:
        """Tell nobody any more. Does not wait, and sends nothing: the next `listen` does both."""
        with self._lock:
            self._wish = None

    def close(self) -> None:
        """End the thread and its connection."""
        self.stop()
        self._ended = True
        if self._thread is not None:
            self._ring()
            self._thread.join()
            self._thread = None
        if self._bell is not None:
            for fd in self._bell:
                os.close(fd)
            self._bell = None

    def _ring(self) -> None:
        assert self._bell is not None  # noqa: S101 - listen has made it
        with contextlib.suppress(BlockingIOError):  # full of rings that will be heard
            os.write(self._bell[1], b"!")

    # the thread

    def _run(self) -> None:
        client = self._settings.connect(timeout=5.0)
        try:
            while not self._ended:
                try:
                    # redis-py has no hints for pubsub()
                    with client.pubsub() as pubsub:  # type: ignore[no-untyped-call]
                        self._serve(pubsub)
                except redis.RedisError as error:
                    log.warning("orders.deaf error=%s", error)
                    self._pause()
                except Exception:  # nobody would listen for the slot any more
                    log.exception("orders.broken")
                    self._pause()
        finally:
            client.close()

    def _serve(self, pubsub: Any) -> None:
        """Follow the wish from job to job on one connection. Raises redis.RedisError."""
        subscribed: _Wish | None = None
        while not self._ended:
            wish = self._wish
            if wish is not None and wish is not subscribed:
                if subscribed is not None and subscribed.channel != wish.channel:
                    pubsub.unsubscribe(subscribed.channel)
                pubsub.subscribe(wish.channel)
                subscribed = wish
            heard = self._wait(pubsub)
            for message in arrived(pubsub):
                try:
                    self._take(message)
                except Exception:  # one that nobody can follow must not be the last that is heard
                    log.exception("orders.failed channel=%.200r", message.get("channel"))
            if not heard and subscribed is not None:
                pubsub.ping()

    def _wait(self, pubsub: Any) -> bool:
        """Wait for a message or the bell; False if neither came for long."""
        assert self._bell is not None  # noqa: S101 - listen has made it
        waited = [self._bell[0]]
        connection = pubsub.connection
        if connection is not None:
            if connection.can_read(timeout=0):
                return True
            # redis-py gives no public way to the socket; kombu takes this one too
            waited.append(connection._sock)  # noqa: SLF001
        ready, _, _ = select.select(waited, [], [], _HEALTH_S)
        if self._bell[0] in ready:
            os.read(self._bell[0], 1 << 16)
        return bool(ready)

    def _take(self, message: Mapping[str, Any]) -> None:
        wish = self._wish
        if wish is None or message.get("channel") != wish.channel:
            return
        if message["type"] == "subscribe":
            wish.listener.listening()
        elif message["type"] == "message":
            try:
                op, order = parsed(message["data"])
            except ValueError as error:
                log.warning("orders.unreadable channel=%s error=%.200r", wish.channel, str(error))
                return
            wish.listener.order(op, order)

    def _pause(self) -> None:
        assert self._bell is not None  # noqa: S101 - listen has made it
        if not self._ended:
            select.select([self._bell[0]], [], [], _AGAIN_S)


def parsed(text: str) -> tuple[str, Mapping[str, Any]]:
    """What is asked for, and the whole order, which is bounded and finite JSON. Every producer may
    say anything on the channel.

    Raises ValueError.
    """
    order = jsonvalue.checked(text)
    op = order.get("op") if isinstance(order, dict) else None
    if not isinstance(order, dict) or not isinstance(op, str):
        raise ValueError("an order is an object with a text `op`")
    return op, order
