"""The cluster's reaper: one among the agents gives back what nobody runs any more.

It requeues jobs whose lease ran out, pushes delayed ones, fails those not started in time, and
finds queued jobs whose message is gone (a worker that died between popping a message and
recording it): for those it compares the records with the queues. A message too many is harmless,
because of the claim. And it sees that Celery hears of every end.

After an outage of Redis, however it shows itself, leases that ran out meanwhile are left alone
until their holders have had the time to renew them.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

import redis

from tasks.errors import BrokenRecord
from tasks.keys import PRIORITY_STEPS
from tasks.leases import GRACE_PART
from tasks.record import Records
from tasks.settings import Settings
from worker.node.dead_messages import job_of, remove_dead_messages
from worker.node.delivered import date_anew, settle_stuck
from worker.node.indexing import Indexing
from worker.node.rounds import Rounds
from worker.node.sightings import Sightings

log = logging.getLogger(__name__)

_LEADER_TTL_MS: Final = 10_000
_SEEN_TTL_MS: Final = 60_000
_PAGE: Final = 500
_QUEUES_AT_ONCE: Final = 100
"""Counted in one transaction: Redis does nothing else meanwhile."""
_TIDY_EVERY_S: Final = 60.0
_LEAD = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local holder = redis.call('GET', KEYS[1])
if holder == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
elseif holder then
  return {0, now}
else
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
return {1, now}
"""
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end"


class Reaper:
    """A thread; leads while it holds the lease in ``keys.reaper``."""

    def __init__(
        self,
        records: Records,
        settings: Settings,
        *,
        holder: str,
        tell: Callable[[str], None],
        period: float = 1.0,
        lost_after: float = 15.0,
        stuck_after: float = 20.0,
    ) -> None:
        """``holder``: unique. ``tell``: sees that Celery knows how a job ended, as
        `tasks.telling.tell`. ``lost_after``: seconds that a queued job may have no message.
        ``stuck_after``: seconds that a worker may have a message and not claim its job."""
        self._records = records
        self._keys = settings.keys
        self._ttl_ms = settings.lease_ttl_ms
        self._holder = holder
        self._tell = tell
        self._lost_after = lost_after
        self._period = period
        self._rounds = Rounds("reaper", self._round, period, at_once=False)
        self._run_id = ""
        self._clock_ms: int | None = None
        self._hold_until = 0.0
        self._tidy_at = 0.0
        self._turn = 0
        self._stuck_after = stuck_after
        self._seen: Sightings | None = None
        self._indexing = Indexing(records)

    def start(self) -> None:
        """Begin."""
        self._rounds.start()

    def stop(self) -> None:
        """End, and let another lead."""
        self._rounds.stop()
        try:
            self._records.client.eval(_RELEASE, 1, self._keys.reaper, self._holder)
        except redis.RedisError as error:  # its lease runs out by itself
            log.info("reaper.not_released error=%s", error)

    def _round(self) -> None:
        try:
            self.once(time.monotonic())
        except redis.RedisError as error:
            log.warning("reaper.redis_away error=%s", error)

    def once(self, now: float) -> bool:
        """One round, if this is the leader; whether it is. ``now``: time.monotonic().

        Raises redis.RedisError.
        """
        try:
            lead = self._lead(now)
        except redis.RedisError:
            self._hold(now, "redis was away")
            raise
        if not lead:
            self._seen, self._indexing = None, Indexing(self._records)
            return False
        self._hold_after_restart(now)
        holds = now < self._hold_until
        done = self._records.upkeep.reap(None if holds else self._grace_ms)
        if done.lost or done.expired:
            log.info("reaper.reaped lost=%d expired=%d", done.lost, done.expired)
        self._tell_untold()
        self._look_at_messages(now)
        self._indexing.step(now)
        if now >= self._tidy_at:
            self._tidy_at = now + _TIDY_EVERY_S
            queues = self._queues()
            remove_dead_messages(self._records, queues, self._turn)
            self._turn += 1
            date_anew(self._records)
            self._records.upkeep.forget(queues)
        return True

    @property
    def _grace_ms(self) -> int:
        return round(self._ttl_ms * GRACE_PART)

    def _lead(self, now: float) -> bool:
        """Whether this is the leader. Whoever is not watches Redis's clock all the same: it may
        lead next, and must know of an outage."""
        client = self._records.client
        lead, clock_ms = client.eval(_LEAD, 1, self._keys.reaper, self._holder, _LEADER_TTL_MS)
        before, self._clock_ms = self._clock_ms, int(clock_ms)
        # Nobody may have been able to renew for so long: Redis was frozen, or its clock was set.
        if before is not None and abs(self._clock_ms - before) > self._most_between_ms:
            self._hold(now, "redis's clock jumped, or nobody looked at it")
        return bool(lead)

    @property
    def _most_between_ms(self) -> float:
        """Between two rounds; a renewal comes every third of the TTL."""
        return self._period * 1000 + self._ttl_ms / 3

    def _hold(self, now: float, why: str, already: float = 0.0) -> None:
        """Take no lease away until every holder has had the time of one to renew its own;
        ``already``: seconds of which it had."""
        if now >= self._hold_until:
            log.warning("reaper.holds why=%s", why)
        self._hold_until = max(self._hold_until, now + self._recovery_s - already)

    @property
    def _recovery_s(self) -> float:
        """How long holders have, after an outage, to renew their leases."""
        return (self._ttl_ms + self._grace_ms) / 1000

    def _hold_after_restart(self, now: float) -> None:
        server = self._records.client.info("server")
        run_id, up = str(server["run_id"]), float(server["uptime_in_seconds"])
        restarted, first = self._run_id not in ("", run_id), not self._run_id
        self._run_id = run_id
        if restarted or (first and up < self._recovery_s):
            self._hold(now, "redis was started", already=0.0 if restarted else up)

    def _tell_untold(self) -> None:
        for job_id in self._records.upkeep.untold():
            try:
                self._tell(job_id)
            except redis.RedisError:
                raise
            except Exception:  # one that cannot be told must not keep the others waiting
                log.exception("reaper.untold job=%s", job_id)

    def _look_at_messages(self, now: float) -> None:
        """Push what is lost, and put back what is stuck; tell the next leader what may be."""
        client, clock_ms = self._records.client, self._clock_ms or 0
        if self._seen is None:
            self._seen = Sightings.heard(client.get(self._keys.reaper_seen), now, clock_ms)  # type: ignore[arg-type]  # no client of asyncio's
        self._look_for_lost_messages(now, self._seen)
        settle_stuck(self._records, self._seen, now, stuck_after=self._stuck_after)
        if told := self._seen.told(now, clock_ms):
            client.set(self._keys.reaper_seen, told, px=_SEEN_TTL_MS)

    def _look_for_lost_messages(self, now: float, seen: Sightings) -> None:
        """Only where a queue is shorter than its records say, and stays so, are messages read."""
        short = self._short()
        if not short:
            seen.short_since = None
        elif seen.short_since is None:
            seen.short_since = now
        elif now - seen.short_since >= self._lost_after:
            seen.short_since = None
            for queue in short:
                self._push_missing(queue)

    def _short(self) -> list[str]:
        """Queues with fewer messages, waiting or delivered, than jobs."""
        queues, missing = self._queues(), dict[str, int]()
        for at in range(0, len(queues), _QUEUES_AT_ONCE):
            missing |= self._missing(queues[at : at + _QUEUES_AT_ONCE])
        if not missing:
            return []
        for queue in self._queues_of_delivered():
            if queue in missing:
                missing[queue] -= 1
        return [queue for queue, count in missing.items() if count > 0]

    def _missing(self, queues: list[str]) -> dict[str, int]:
        """How many more jobs than messages wait in each queue; those where none is missing are
        left out."""
        with self._records.client.pipeline(transaction=True) as pipe:
            for queue in queues:
                pipe.zcard(self._keys.waiting(queue))
                for step in PRIORITY_STEPS:
                    pipe.llen(self._keys.message_list(queue, step))
            counts = iter([int(one) for one in pipe.execute()])
        found = {queue: next(counts) - sum(islice(counts, len(PRIORITY_STEPS))) for queue in queues}
        return {queue: count for queue, count in found.items() if count > 0}

    def _queues_of_delivered(self) -> list[str]:
        """The queue of each waiting job whose message a worker has. A message of a job that has
        ended must not hide the loss of another's."""
        client, found = self._records.client, set()
        for text in client.hvals(self._keys.unacked):
            try:
                found.add((str(json.loads(text)[2]), job_of(str(text))))
            except (ValueError, KeyError, TypeError, IndexError, RecursionError):
                continue
        return [
            queue
            for queue, job_id in found
            if client.zscore(self._keys.waiting(queue), job_id) is not None
        ]

    def _queues(self) -> list[str]:
        found = self._records.client.smembers(self._keys.queues)
        return sorted(str(queue) for queue in found)

    def _push_missing(self, queue: str) -> None:
        client = self._records.client
        clock = client.time()
        before = clock[0] * 1000 + clock[1] // 1000 - round(self._lost_after * 1000)
        waiting: dict[str, float] = dict(
            client.zrangebyscore(self._keys.waiting(queue), "-inf", before, withscores=True)  # type: ignore[arg-type]  # decoded pairs
        )
        if not waiting:
            return
        for found in self._ids_in_messages(queue):
            waiting.pop(found, None)
        for job_id, since in waiting.items():
            try:
                pushed = self._records.upkeep.repush(str(job_id), str(int(since)))
            except BrokenRecord as error:
                log.error("reaper.record_broken job=%s error=%s", job_id, error)
                self._records.upkeep.bury(str(job_id))
                continue
            if pushed:
                log.warning("reaper.message_lost job=%s queue=%s", job_id, queue)

    def _ids_in_messages(self, queue: str) -> Iterator[str]:
        client = self._records.client
        for step in PRIORITY_STEPS:
            at = 0
            while page := client.lrange(self._keys.message_list(queue, step), at, at + _PAGE - 1):
                yield from (job_of(text) for text in page)
                at += _PAGE
        held = client.hvals(self._keys.unacked)
        yield from (job_of(text) for text in held)
