"""The cluster's reaper: one among the agents gives back what nobody runs any more.

It requeues jobs whose lease ran out, pushes delayed ones, fails those not started in time, and
finds queued jobs whose message is gone (a worker that died between popping a message and
recording it): for those it compares the records with the queues. A message too many is harmless,
because of the claim.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from typing import Final

import redis

from tasks.keys import PRIORITY_STEPS
from tasks.record import Records
from tasks.settings import Settings

log = logging.getLogger(__name__)

_LEADER_TTL_MS: Final = 10_000
_PAGE: Final = 500
_GRACE_PART: Final = 0.25
"""Of the lease's TTL: as long as the claim waits, so that the old keeper has stopped."""
_RENEW = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
return 0
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
        period: float = 1.0,
        lost_after: float = 15.0,
    ) -> None:
        """``holder``: unique. ``lost_after``: seconds that a queued job may have no message."""
        self._records = records
        self._keys = settings.keys
        self._ttl_ms = settings.lease_ttl_ms
        self._holder = holder
        self._period = period
        self._lost_after = lost_after
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reaper", daemon=True)
        self._run_id = ""
        self._hold_until = 0.0
        self._short_since: float | None = None
        self._away = False

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, and let another lead."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        try:
            self._records.client.eval(_RELEASE, 1, self._keys.reaper, self._holder)
        except redis.RedisError as error:  # its lease runs out by itself
            log.info("reaper.not_released error=%s", error)

    def _run(self) -> None:
        while not self._stop.wait(self._period):
            try:
                self.once(time.monotonic())
            except redis.RedisError as error:
                log.warning("reaper.redis_away error=%s", error)
                self._away = True
            except Exception:  # the thread must outlive a fault: nobody else does its work
                log.exception("reaper.broken")

    def once(self, now: float) -> None:
        """One round, if this is the leader. ``now``: time.monotonic(). Raises redis.RedisError."""
        client = self._records.client
        if not client.eval(_RENEW, 1, self._keys.reaper, self._holder, _LEADER_TTL_MS):
            return
        self._hold_after_restart(now)
        if now < self._hold_until:
            return
        done = self._records.reap(round(self._ttl_ms * _GRACE_PART))
        if done.lost or done.expired:
            log.info("reaper.reaped lost=%d expired=%d", done.lost, done.expired)
        self._look_for_lost_messages(now)

    def _hold_after_restart(self, now: float) -> None:
        """After an outage every holder gets the time of a lease to renew its own."""
        run_id = str(self._records.client.info("server")["run_id"])
        if self._away or (self._run_id and run_id != self._run_id):
            self._hold_until = now + self._ttl_ms / 1000 * (1 + _GRACE_PART)
            log.warning("reaper.holds seconds=%.0f", self._hold_until - now)
        self._run_id, self._away = run_id, False

    def _look_for_lost_messages(self, now: float) -> None:
        """Only where a queue is shorter than its records say, and stays so, are messages read."""
        short = [queue for queue in self._queues() if self._is_short(queue)]
        if not short:
            self._short_since = None
        elif self._short_since is None:
            self._short_since = now
        elif now - self._short_since >= self._lost_after:
            self._short_since = None
            for queue in short:
                self._push_missing(queue)

    def _queues(self) -> list[str]:
        found = self._records.client.smembers(self._keys.queues)
        return sorted(str(queue) for queue in found)

    def _is_short(self, queue: str) -> bool:
        with self._records.client.pipeline(transaction=True) as pipe:
            pipe.zcard(self._keys.waiting(queue))
            pipe.hlen(self._keys.unacked)
            for step in PRIORITY_STEPS:
                pipe.llen(self._keys.message_list(queue, step))
            waiting, unacked, *lengths = pipe.execute()
        return bool(waiting > unacked + sum(lengths))

    def _push_missing(self, queue: str) -> None:
        client = self._records.client
        clock = client.time()
        before = clock[0] * 1000 - round(self._lost_after * 1000)
        waiting: dict[str, float] = dict(
            client.zrangebyscore(self._keys.waiting(queue), "-inf", before, withscores=True)  # type: ignore[arg-type]  # decoded pairs
        )
        if not waiting:
            return
        for found in self._ids_in_messages(queue):
            waiting.pop(found, None)
        for job_id, since in waiting.items():
            if self._records.repush(str(job_id), str(int(since))):
                log.warning("reaper.message_lost job=%s queue=%s", job_id, queue)

    def _ids_in_messages(self, queue: str) -> Iterator[str]:
        client = self._records.client
        for step in PRIORITY_STEPS:
            at = 0
            while page := client.lrange(self._keys.message_list(queue, step), at, at + _PAGE - 1):
                yield from (_id_of(text) for text in page)
                at += _PAGE
        held = client.hvals(self._keys.unacked)
        yield from (_id_of(text) for text in held)


def _id_of(text: str | bytes) -> str:
    """The task's id in a message as kombu stores it, delivered or not; '' if it has none."""
    try:
        message = json.loads(text)
        if isinstance(message, list):
            message = message[0]
        return str(message["headers"]["id"])
    except (ValueError, KeyError, TypeError, IndexError):
        return ""
