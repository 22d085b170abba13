"""What runs beside a node's slots: the cluster's reaper, and the sweep of what ended jobs left."""

from __future__ import annotations

import logging
import random
import shutil
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Final

import redis

from tasks.errors import UnknownJob
from tasks.record import Records
from tasks.sent import SentCheckpoints
from tasks.settings import Settings
from worker.checkpoints import Checkpoints
from worker.config import NodeConfig
from worker.node.identity import NodeIdentity
from worker.node.paths import NodePaths
from worker.node.reaper import Reaper
from worker.node.rounds import Rounds
from worker.store.policy import Policy
from worker.store.refusals import StoreError
from worker.store.retention import Retention
from worker.store.saved import SavedCheckpoints
from worker.store.send import Waiting

if TYPE_CHECKING:
    from tasks.publishing import JobCelery
    from worker.node.metrics import Metrics

log = logging.getLogger(__name__)

_SWEEP_EVERY_S: Final = 60.0
_MOST_FAILURES: Final = 3
"""Of one store in one sweep: by then the same will befall the others."""


def cluster_services(
    config: NodeConfig, settings: Settings, paths: NodePaths, identity: NodeIdentity
) -> Sequence[Reaper | Sweep | Metrics]:
    """The services of one agent."""
    from worker.node.metrics import Metrics  # slot workers, which import this too, have none

    records = Records(settings.connect(), settings.keys, terminal_ttl_s=settings.result_ttl_s)
    holder = f"{identity.name}:{identity.instance}"
    return [
        Reaper(records, settings, holder=holder, tell=teller(settings)),
        Sweep(
            records,
            Checkpoints(paths=paths, shared=config.storage.shared_checkpoints),
            Retention(place=paths.artifacts, days=config.storage.keep_artifacts_days),
            _store(config),
        ),
        Metrics(config.metrics, settings, identity.name),
    ]


def _store(config: NodeConfig) -> SavedCheckpoints | None:
    """Where copies of checkpoints are."""
    url = config.storage.checkpoint_store
    return None if url is None else SavedCheckpoints(Policy.of(config), url)


def teller(settings: Settings) -> Callable[[str], None]:
    """What tells Celery of jobs that ended without a worker to do it.

    An agent does without Celery, which costs it memory, until the first such job.
    """

    @cache
    def app() -> JobCelery:
        from tasks.celery import make_app

        return make_app(settings, include=())  # type: ignore[no-any-return]  # Celery has no type hints

    def tell(job_id: str) -> None:
        from tasks import telling

        telling.tell(app(), job_id)

    return tell


class _Stopped(Exception):
    """The node stops."""


class Sweep:
    """Removes the directories of jobs that ended elsewhere: the checkpoints they left here, and in
    the store. And artefacts that have been kept for long enough."""

    def __init__(
        self,
        records: Records,
        checkpoints: Checkpoints,
        retention: Retention,
        store: SavedCheckpoints | None = None,
    ) -> None:
        """``store``: what `storage.checkpoints` names, if that is a URL."""
        self._records = records
        self._store = store
        self._index = SentCheckpoints(records.client, records.keys)
        self._checkpoints = checkpoints
        self._retention = retention
        self._paths = checkpoints.paths
        self._rounds = Rounds("sweep", self._round, _SWEEP_EVERY_S)

    def start(self) -> None:
        """Begin."""
        self._rounds.start()

    def stop(self) -> None:
        """End. Safe to call twice."""
        self._rounds.stop()

    def once(self) -> None:
        """Look at each job's directory. Raises redis.RedisError."""
        for job_id in self._retention.once():
            log.info("artifacts.removed job=%s", job_id)
        for directory in list(self._paths.jobs.iterdir()):
            if not self._runs(directory.name) and self._is_over(directory.name) is not False:
                shutil.rmtree(directory, ignore_errors=True)
                log.info("sweep.removed job=%s", directory.name)
        for job_id in self._checkpoints.forgotten(self._is_over):
            if not self._runs(job_id):
                self._checkpoints.drop(job_id)
                log.info("sweep.removed job=%s", job_id)
        if self._store is not None and self._index.sweeps(self._store.id):
            self._sweep_store(self._store)

    def _sweep_store(self, store: SavedCheckpoints) -> None:
        waiting = Waiting(stall=store.stall, check=self._check)
        failures = 0
        jobs = self._index.over(store.id)
        random.shuffle(jobs)  # those that fail each time must not keep the others from their turn
        for job_id in jobs:
            if self._runs(job_id):
                continue
            try:
                self._check()
                store.remove(job_id, waiting)
            except _Stopped:
                return
            except StoreError as error:
                log.warning("sweep.store_put_off job=%s error=%s", job_id, error)
                failures += 1
                if failures == _MOST_FAILURES:
                    return
                continue
            self._index.removed(job_id)
            log.info("sweep.removed_from_store job=%s", job_id)

    def _check(self) -> None:
        if self._rounds.stopping:
            raise _Stopped

    def _runs(self, job_id: str) -> bool:
        """Whether an attempt of it is here, whatever Redis knows: its data may have been wiped."""
        attempts = self._paths.attempts
        return any(one.name.rpartition("~")[0] == job_id for one in attempts.iterdir())

    def _is_over(self, job_id: str) -> bool | None:
        """None: nobody knows of it. A record that this version cannot read says of no end."""
        try:
            return self._records.get(job_id).state.terminal
        except UnknownJob:
            return None
        except (ValueError, KeyError, RecursionError) as error:
            log.warning("sweep.unreadable job=%s error=%r", job_id, error)
            return False

    def _round(self) -> None:
        try:
            self.once()
        except (redis.RedisError, OSError) as error:
            log.warning("sweep.put_off error=%s", error)
