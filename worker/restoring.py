"""Writes the record of a claimed job again, which Redis has lost: as running, or as queued."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from tasks import events
from tasks.errors import InvalidJob, LeaseLost
from tasks.job import JobConfig
from tasks.leases import GRACE_PART, tagged
from tasks.recorded import Claimed, Lost
from tasks.routing import route
from tasks.seals import RESTORED, Sealer
from tasks.state import FailureReason
from worker.parts import NodeParts
from worker.stream.publisher import Publisher

log = logging.getLogger(__name__)


class Restoring:
    """Of one attempt."""

    def __init__(
        self,
        parts: NodeParts,
        claim: Claimed,
        queue: str,
        publisher: Publisher,
        sealer: Sealer | None,
    ) -> None:
        """``queue``: where its message came from; '' if that is not known. ``publisher``: knows how
        far its events had come."""
        self._parts = parts
        self._claim = claim
        self._queue = queue
        self._publisher = publisher
        self._sealer = sealer

    def as_running(self) -> None:
        """The job goes on. Raises LeaseLost: it is somebody else's; redis.RedisError."""
        log.warning("job.record_gone job=%s", self._claim.lease.job_id)
        self._write(events.Resumed(why="Redis has lost its data, and the job goes on"))

    def as_queued(self, until_redis_answers: Callable[[Callable[[], Any]], Any]) -> None:
        """Nothing of the attempt is left, and its lease may have run out before Redis forgot: the
        job is queued, unless there is a record of it. It is sent to a node only after as long as
        somebody else has, who may have been given it meanwhile, to write that it runs there.
        """
        job_id = self._claim.lease.job_id
        why = "Redis was away for longer than the lease, and has lost its data"
        again = events.Retrying(reason=FailureReason.NODE_LOST, message=why)
        delay = round(self._parts.settings.lease_ttl_ms * (1 + GRACE_PART))
        try:
            until_redis_answers(lambda: self._write(again, queue_in_ms=delay))
        except LeaseLost:
            log.info("job.known_elsewhere job=%s", job_id)
        else:
            log.warning("job.queued_again job=%s why=%s", job_id, why)

    def _write(self, event: events.Event, queue_in_ms: int | None = None) -> None:
        """See `Leases.restore`. Raises LeaseLost, too, where this node cannot read the job."""
        try:
            job = JobConfig.parse(self._claim.spec)
        except InvalidJob as error:
            raise LeaseLost(f"{self._claim.lease.job_id}: {error}") from None
        way, place = route(job), self._parts.place
        batch = self._publisher.batch
        said = tagged(event)
        if self._sealer is not None:
            (said,) = self._sealer.seal([said], batch, RESTORED)
        self._parts.records.leases.restore(
            self._claim,
            Lost(
                queue=self._queue or way.queue,
                priority_step=way.priority_step,
                user_id=job.user_id,
                max_attempts=job.max_attempts,
                node=place.node,
                slot=place.slot,
                gpus=len(place.devices),
            ),
            self._parts.settings.lease_ttl_ms,
            seq=self._publisher.seq,
            batch=batch,
            event=said,
            queue_in_ms=queue_in_ms,
        )
