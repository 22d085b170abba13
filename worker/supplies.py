"""Brings an attempt its data and code, and takes away what it leaves; tells the job's followers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tasks import events
from tasks.job import JobConfig
from tasks.state import FailureReason, JobState
from worker.config import NodeConfig
from worker.node.paths import NodePaths
from worker.outcome import Outcome
from worker.plan import AttemptId
from worker.store.artifacts import Collected, collect
from worker.store.delivery import deliver
from worker.store.disk import require_free
from worker.store.fetching import Moved
from worker.store.policy import Policy
from worker.store.provide import Provided, Store
from worker.store.refusals import CodeRefused, DataRefused, DataUnavailable, NoRoom, StoreError
from worker.store.send import Waiting
from worker.stream.publisher import Publisher
from worker.turned_away import TurnedAway

log = logging.getLogger(__name__)

_TELL_EVERY_S: Final = 2.0


class Supplies:
    """Of one attempt. `close` it when a keeper has the grant, or there will be none."""

    def __init__(
        self,
        config: NodeConfig,
        attempt: AttemptId,
        publisher: Publisher,
        check: Callable[[], None],
    ) -> None:
        """``check``: called while something takes long; raises to end it."""
        self._policy = Policy.of(config)
        self._state_dir = config.node.state_dir
        self._attempt = attempt
        self._publisher = publisher
        self._check = check
        self._told = 0.0
        self._provided: Provided | None = None

    def get(self, job: JobConfig) -> Provided:
        """Data and code. Raises TurnedAway, and what ``check`` raises."""
        try:
            require_free(self._state_dir, 0, self._policy.keep_free)
        except NoRoom as error:
            raise TurnedAway.handed_back(FailureReason.ENGINE_ERROR, str(error)) from None
        try:
            store = Store(self._policy)
            self._provided = store.provide(job, check=self._check, moved=self._moved)
        except StoreError as error:
            log.info("data.unavailable attempt=%s error=%s", self._attempt, error)
            raise _turned_away(error) from None
        return self._provided

    def keep(self, output: Path) -> Collected:
        """What the attempt left in ``output``, where its producer finds it.

        Raises TurnedAway, and what ``check`` raises.
        """
        policy = self._policy
        try:
            if "://" not in policy.artifacts:
                place = Path(policy.artifacts) / self._attempt.job_id
                return collect(
                    output, place, most_bytes=policy.output_bytes, keep_free=policy.keep_free
                )
            # what a kill leaves of it goes with the job's directory
            staging = NodePaths(state_dir=self._state_dir).job(self._attempt.job_id) / "sending"
            kept = collect(
                output, staging, most_bytes=policy.output_bytes, keep_free=policy.keep_free
            )
            return deliver(
                kept, self._attempt, policy, Waiting(stall=policy.stall, check=self._check)
            )
        except StoreError as error:
            log.error("artifacts.unkept attempt=%s error=%s", self._attempt, error)
            raise TurnedAway(
                Outcome(
                    state=JobState.FAILED,
                    reason=FailureReason.ENGINE_ERROR,
                    message=f"it ran to its end, and what it left could not be kept: {error}",
                    retry=True,
                )
            ) from None

    def close(self) -> None:
        """Let go of this process's hold on what was fetched. Safe to call twice."""
        if self._provided is not None:
            self._provided.close()

    def _moved(self, shown: str, moved: Moved) -> None:
        now = time.monotonic()
        if now - self._told >= _TELL_EVERY_S or moved.done in (0, moved.total):
            self._told = now
            self._publisher.offer(
                events.Fetching(source=shown, done=moved.done, total=moved.total or 0)
            )


def _turned_away(error: StoreError) -> TurnedAway:
    match error:
        case NoRoom():
            return TurnedAway.handed_back(FailureReason.DATASET_UNAVAILABLE, str(error))
        case CodeRefused():
            return TurnedAway.rejected(FailureReason.USER_ERROR, str(error))
        case DataRefused():
            return TurnedAway.rejected(FailureReason.DATASET_UNAVAILABLE, str(error))
        case DataUnavailable():
            reason = FailureReason.DATASET_UNAVAILABLE
            return TurnedAway(
                Outcome(state=JobState.FAILED, reason=reason, message=str(error), retry=True)
            )
        case _:
            return TurnedAway.handed_back(FailureReason.ENGINE_ERROR, str(error))
