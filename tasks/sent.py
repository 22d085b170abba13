"""Which jobs have checkpoints in a store, and which snapshot of them is the newest whole one.

The snapshot stands in the job's record, so that it is written under the attempt's fence only, and
a store that somebody has tampered with cannot name another. Whoever may write the record can name
another one of the same binding: where in the store it is looked for, the node says.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

import redis

from tasks.errors import LeaseLost, RecordGone
from tasks.job import is_job_id
from tasks.keys import Keys
from tasks.recorded import Lease
from tasks.scripts import Scripts
from tasks.state import JobState

_SWEPT_EVERY_MS: Final = 50_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """The newest whole snapshot of a job's checkpoints."""

    store: str
    """Which store it is in; see `worker.store.saved`."""
    sha256: str
    """Of its list of files."""
    fence: int
    """Of the attempt that sent it."""
    bound: str = ""
    """The name of its binding (`worker.binding`), and of its place in the job's folder; '': an
    earlier version wrote this."""


class SentCheckpoints:
    """Of all jobs under one prefix. `redis.RedisError` passes through."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._scripts = Scripts(client, keys.prefix)

    def begin(self, lease: Lease, store: str) -> None:
        """Something of the job will be put to ``store``. Raises LeaseLost, RecordGone."""
        self._write(lease, store, "")

    def whole(self, lease: Lease, sent: Sent) -> None:
        """A snapshot is there, whole. Raises LeaseLost, RecordGone."""
        said = {"store": sent.store, "sha256": sent.sha256, "fence": sent.fence}
        if sent.bound:
            said["bound"] = sent.bound
        self._write(lease, sent.store, json.dumps(said))

    def of(self, job_id: str) -> Sent | None:
        """The newest whole snapshot; None: there is none, or another version wrote it."""
        found: Any = self._client.hget(self._keys.job(job_id), "sent")
        try:
            said = json.loads(found or "{}")
            return Sent(
                store=str(said["store"]),
                sha256=str(said["sha256"]),
                fence=int(said["fence"]),
                bound=str(said.get("bound", "")),
            )
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return None

    def store_of(self, job_id: str) -> str:
        """The store that something of the job is in; '': none."""
        found: Any = self._client.hget(self._keys.checkpoints, job_id)
        return str(found or "")

    def removed(self, job_id: str) -> None:
        """Nothing of the job is in a store any more."""
        self._client.hdel(self._keys.checkpoints, job_id)

    def over(self, store: str) -> list[str]:
        """Jobs that have ended, or whose record is gone, with something in ``store``. What can be
        no job's id is none: it would name a place in the store that is not a job's."""
        found: Any = self._client.hscan_iter(self._keys.checkpoints, count=1000)
        jobs = [job_id for job_id, where in found if where == store and is_job_id(job_id)]
        pipe = self._client.pipeline(transaction=False)
        for job_id in jobs:
            pipe.hget(self._keys.job(job_id), "state")
        states = pipe.execute()
        return [
            job_id
            for job_id, state in zip(jobs, states, strict=True)
            if state is None or _is_terminal(state)
        ]

    def sweeps(self, store: str) -> bool:
        """Whether nobody has asked the same for ``store`` within the last minute: one node of all
        that use it looks after it."""
        key = self._keys.checkpoints_swept(store)
        return bool(self._client.set(key, "1", nx=True, px=_SWEPT_EVERY_MS))

    def _write(self, lease: Lease, store: str, said: str) -> None:
        answer = self._scripts.call("sent", lease.job_id, lease.owner, lease.fence, store, said)
        if answer == "GONE":
            raise RecordGone(f"job {lease.job_id}: its record is gone")
        if answer != "OK":
            raise LeaseLost(f"job {lease.job_id}: fence {lease.fence} is not the holder any more")


def _is_terminal(state: str) -> bool:
    """False also for a state that another version has: nothing is known of the job's end."""
    try:
        return JobState(state).terminal
    except ValueError:
        return False
