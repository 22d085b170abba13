"""What kombu's channels lack where anybody may push to a queue.

What is no job's message is put aside before kombu or Celery reads it: into the list
``Keys.put_aside``, with its reason, capped in number and in bytes. Left to kombu it would end the
worker, or be there again whenever the worker is.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Collection
from queue import Empty
from typing import Any, Final

from tasks.keys import PUT_ASIDE, PUT_ASIDE_MOST, PUT_ASIDE_TTL_S
from tasks.messages import Unfit, check_message, check_record, check_shape

log = logging.getLogger(__name__)

TASKS_OPTION: Final = "cyxwiz_tasks"
"""Of the transport: the names of the tasks that a message may ask for."""
_PIDBOX: Final = ".celery.pidbox"
_HEAD: Final = 2_000
"""How much of a message is kept, bytes."""


class FitQoS:
    """Goes before kombu's own among the bases."""

    channel: Any
    unacked_key: str
    unacked_index_key: str

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> Any:
        """kombu's; but an entry that it cannot read would be in the way of all others for ever."""
        with self.channel.conn_or_acquire(client) as found:
            raw = found.hget(self.unacked_key, tag)
            try:
                if raw is not None:
                    check_record(raw)
            except Unfit as unfit:
                self.channel.put_aside(raw, "unacked", str(unfit))
                found.hdel(self.unacked_key, tag)
                found.zrem(self.unacked_index_key, tag)
                return None
        return super().restore_by_tag(tag, client, leftmost)  # type: ignore[misc]  # of the other base


class FitChannel:
    """Goes before kombu's own among the bases."""

    connection: Any
    conn_or_acquire: Any
    global_keyprefix: str

    def _create_client(self, asynchronous: bool = False) -> Any:
        client = super()._create_client(asynchronous)  # type: ignore[misc]  # of the other base
        read = client.parse_response

        def parse_response(connection: Any, command: str, **options: Any) -> Any:
            found = read(connection, command, **options)
            return self._fit(found) if command == "BRPOP" and found else found

        client.parse_response = parse_response
        return client

    def _fit(self, found: Any) -> Any:
        """The queue and the message of a BRPOP; None, as if none had come, for one put aside."""
        queue, raw = _text(found[0]), found[1]
        try:
            if _PIDBOX in queue:  # Celery's own: questions to a worker, and the answers
                check_shape(raw)
            else:
                check_message(raw, self._tasks)
        except Unfit as unfit:
            self.put_aside(raw, queue, str(unfit))
            return None
        return found

    @property
    def _tasks(self) -> Collection[str]:
        found: Collection[str] = self.connection.client.transport_options[TASKS_OPTION]
        return found

    def _receive_one(self, client: Any) -> Any:
        """Of a channel: control and events of workers. What cannot be read is left out."""
        try:
            return super()._receive_one(client)  # type: ignore[misc]  # of the other base
        except (Empty, *self.connection.connection_errors, *self.connection.channel_errors):
            raise
        except Exception as error:  # whatever kombu and Celery make of what anybody publishes
            log.warning("broadcast.unreadable error=%.200r", error)
            raise Empty from None

    def put_aside(self, raw: Any, queue: str, reason: str) -> None:
        """Keep the beginning of a message where people can look at it, and say so."""
        queue = queue.partition("\x06")[0]
        log.error("message.put_aside queue=%s bytes=%d reason=%s", queue, len(raw), reason)
        entry = {
            "at": round(time.time(), 3),
            "queue": queue,
            "reason": reason,
            "bytes": len(raw),
            "head": _text(raw[:_HEAD]),
        }
        key = f"{self.global_keyprefix}{PUT_ASIDE}"
        with self.conn_or_acquire() as client, client.pipeline() as pipe:
            pipe.lpush(PUT_ASIDE, json.dumps(entry))  # kombu's client puts the prefix before this
            pipe.ltrim(key, 0, PUT_ASIDE_MOST - 1)  # … and before none of these
            pipe.expire(key, PUT_ASIDE_TTL_S)
            pipe.execute()


def _text(raw: Any) -> str:
    return raw.decode("utf-8", "backslashreplace") if isinstance(raw, bytes) else str(raw)
