"""Whether a node is well: it is known in Redis, and takes jobs or was told not to."""

from __future__ import annotations

from typing import Any

import redis

from tasks.keys import Keys
from tasks.nodes import parse_record

_WORKS = ("ready", "draining")
"""States of slots whose workers are up."""


def illness(client: redis.Redis, keys: Keys, node: str) -> str:
    """What is wrong with ``node``; '' if it is well. Two commands, whatever the cluster's size."""
    pipe = client.pipeline(transaction=False)
    pipe.hget(keys.node(node), "record")
    pipe.hexists(keys.cordoned, node)
    try:
        text, cordoned = pipe.execute()
    except redis.RedisError as error:
        return f"Redis does not answer: {error}"
    if text is None:
        return f"Redis has no heartbeat of node {node}"
    if cordoned:
        return ""
    said: Any = parse_record(text)[0].get("slots")
    slots = [one for one in said if isinstance(one, dict)] if isinstance(said, list) else []
    if any(slot.get("state") in _WORKS for slot in slots):
        return ""
    return f"none of its {len(slots)} slots takes jobs"
