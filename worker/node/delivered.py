"""Messages that a worker has and has not claimed: kombu's `unacked`, judged by Redis's clock alone.

kombu gives such a message back after minutes, by the wall clocks of the worker that took it and of
the one that looks. A worker whose clock is hours ahead, and dies, would leave it there for hours.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from tasks.record import Records
from worker.node.dead_messages import job_of
from worker.node.sightings import Sightings

log = logging.getLogger(__name__)

_AHEAD_S: Final = 30
"""Of a worker's clock: less is not worth to be mended; kombu waits ten times as long."""
_MOST: Final = 1_000
"""Entries that one call dates anew."""
_DATE_ANEW = """
local clock = redis.call('TIME')
local now = tonumber(clock[1])
local ahead = redis.call(
  'ZRANGEBYSCORE', KEYS[1], '(' .. now + ARGV[1], '+inf', 'LIMIT', 0, ARGV[2])
for _, tag in ipairs(ahead) do redis.call('ZADD', KEYS[1], 'XX', now, tag) end
return #ahead
"""


def settle_stuck(records: Records, seen: Sightings, now: float, *, stuck_after: float) -> None:
    """Give back, or away, what some worker has had for ``stuck_after`` seconds: a claim comes at
    once, so it is dead or stands still.

    ``now``: as in ``seen``, which it completes. Raises redis.RedisError.
    """
    client, key = records.client, records.keys.unacked
    there = {str(tag) for tag in client.hkeys(key)}
    seen.delivered = {tag: seen.delivered.get(tag, now) for tag in there}
    for tag in [t for t, since in seen.delivered.items() if now - since >= stuck_after]:
        seen.delivered[tag] = now
        text = client.hget(key, tag)
        job_id = job_of(str(text)) if text else ""
        if job_id and (done := records.upkeep.settle_delivered(job_id, tag)):
            log.warning("reaper.message_stuck job=%s %s", job_id, done)


def date_anew(records: Records) -> int:
    """Let kombu count from now what was taken by a clock ahead of Redis's; how many.

    Whatever `settle_stuck` leaves alone is meant: of a job that runs, or that has no record.
    Raises redis.RedisError.
    """
    client: Any = records.client
    found = int(client.eval(_DATE_ANEW, 1, records.keys.unacked_index, _AHEAD_S, _MOST))
    if found:
        log.warning("reaper.clock_ahead messages=%d: taken by a worker whose clock is wrong", found)
    return found
