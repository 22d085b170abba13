"""What has come on a connection that is subscribed to channels of Redis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

_REST_S: Final = 5.0
"""For the rest of a message that has begun to come."""


def arrived(pubsub: Any) -> Iterator[Mapping[str, Any]]:
    """The messages that are there, without waiting for others. ``pubsub``: redis-py's.

    Of one that has come in part the rest is waited for: redis-py, given no time, takes that for a
    broken connection, and whoever publishes something long would have the listener deaf meanwhile.

    Raises redis.RedisError.
    """
    while pubsub.connection is not None and pubsub.connection.can_read(timeout=0):
        message: Mapping[str, Any] | None = pubsub.get_message(timeout=_REST_S)
        if message:
            yield message
