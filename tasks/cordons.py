"""Nodes that shall take no new job: cordon, drain, uncordon.

What is asked of a node stands in Redis (`Keys.cordoned`), so it holds for a node that is not there
now and through its restarts. The node's channel only has it look at once; its next heartbeat
brings it all the same.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import redis

from tasks.keys import Keys


@dataclass(frozen=True, kw_only=True, slots=True)
class Cordon:
    """The node takes no new job."""

    why: str = ""
    """For people."""
    drain: float | None = None
    """Seconds that jobs in progress have until they are handed back; None: as long as they take."""

    def to_json(self) -> str:
        said = {"why": self.why} | ({} if self.drain is None else {"drain": self.drain})
        return json.dumps(said, separators=(",", ":"))

    @classmethod
    def parse(cls, text: str) -> Cordon | None:
        """What stands in Redis; None for ''. One that cannot be read is a plain cordon."""
        if not text:
            return None
        try:
            said = json.loads(text)
            drain = said.get("drain")
            return cls(
                why=str(said.get("why") or ""),
                drain=None if drain is None else max(0.0, float(drain)),
            )
        except (ValueError, AttributeError, TypeError, OverflowError, RecursionError):
            return cls(why="it cannot be read why")


def cordon(
    client: redis.Redis, keys: Keys, node: str, *, why: str = "", drain: float | None = None
) -> None:
    """The node takes no new job from now on; its jobs go on, or have ``drain`` seconds.

    It need not be there. May be said again, with another ``drain``. Raises redis.RedisError.
    """
    client.hset(keys.cordoned, node, Cordon(why=why[:200], drain=drain).to_json())
    client.publish(keys.orders(node), "look")


def uncordon(client: redis.Redis, keys: Keys, node: str) -> bool:
    """The node takes jobs again; whether it did not. Raises redis.RedisError."""
    was = client.hdel(keys.cordoned, node)
    client.publish(keys.orders(node), "look")
    return bool(was)
