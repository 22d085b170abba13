"""Messages of jobs that are over, in queues that no node reads: nobody would ever take them out.

A job that is cancelled or expires while it is queued leaves its message behind. Where a node reads
the queue the message is taken and dropped; where none does, it would stay for ever.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from tasks.keys import PRIORITY_STEPS
from tasks.record import Records
from tasks.state import JobState

_MOST: Final = 1_000
"""Messages that one turn looks at in one list."""
_OVER: Final = frozenset(str(state) for state in JobState if state.terminal)


def remove_dead_messages(records: Records, queues: Sequence[str], turn: int = 0) -> int:
    """Remove from ``queues`` the messages of ended jobs of which Celery knows; how many.

    ``turn``: each one looks at other messages of a long list, until all were looked at.

    A message that no record is known of is left alone: it may be of a program that records
    nothing. Raises redis.RedisError.
    """
    removed = 0
    for queue in queues:
        for step in PRIORITY_STEPS:
            removed += _remove_from(records, records.keys.message_list(queue, step), turn)
    return removed


def _remove_from(records: Records, key: str, turn: int) -> int:
    client: Any = records.client
    before = turn % max(1, -(-int(client.llen(key)) // _MOST)) * _MOST
    texts: list[str] = client.lrange(key, -before - _MOST, -before - 1)
    if not texts:
        return 0
    with client.pipeline(transaction=False) as pipe:
        for text in texts:
            pipe.hmget(records.keys.job(job_of(text)), "state", "result_stored")
        found = pipe.execute()
    dead = [
        text
        for text, (state, stored) in zip(texts, found, strict=True)
        if state in _OVER and stored
    ]
    return sum(int(client.lrem(key, -1, text)) for text in dead)


def job_of(text: str | bytes) -> str:
    """The task's id in a message as kombu stores it, delivered or not; '' if it has none."""
    try:
        message = json.loads(text)
        if isinstance(message, list):
            message = message[0]
        return str(message["headers"]["id"])
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return ""
