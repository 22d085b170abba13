"""The job record in Redis: the truth about a job, of which its Celery message is only a hint.

Every method is one Lua script and one round trip. Redis's clock (TIME) is the only clock. What the
holder of a lease may write is in `tasks.leases`; what keeps the whole in order, in `tasks.upkeep`.

Nothing here retries: `redis.RedisError` passes through.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import redis

from tasks.errors import JobConflict, UnknownJob
from tasks.events import Queued
from tasks.keys import TERMINAL_TTL_S, Keys
from tasks.leases import Leases, tagged
from tasks.needs import Needs
from tasks.recorded import Ending, JobRecord
from tasks.scripts import Scripts
from tasks.state import JobState
from tasks.upkeep import Upkeep


class Records:
    """The records under one prefix. Threads may share it; so may processes, after a fork."""

    def __init__(
        self, client: redis.Redis, keys: Keys, *, terminal_ttl_s: int = TERMINAL_TTL_S
    ) -> None:
        """``client`` decodes its answers. ``terminal_ttl_s``: how long an ended job's keys stay."""
        self.client = client
        self.keys = keys
        self.terminal_ttl_s = terminal_ttl_s
        self._scripts = Scripts(client, keys.prefix)
        self.leases = Leases(self._scripts, terminal_ttl_s)
        self.upkeep = Upkeep(self._scripts, terminal_ttl_s)

    def submit(
        self,
        *,
        job_id: str,
        spec: str,
        queue: str,
        priority_step: int,
        user_id: str,
        max_attempts: int,
        expires_ms: int,
        message: str,
        needs: Needs | None = None,
    ) -> bool:
        """Write the record as queued, with its `queued` event, and put its message into its queue.
        True if new, False if it stood.

        ``expires_ms``: positive: from now; negative: minus the ms since the epoch; 0: never.
        ``message``: as kombu's Redis transport would have it in its list, or ''.
        ``needs``: how its `queued` event says that no live node can serve it.

        Raises JobConflict if it stands with another ``spec``.
        """
        digest = hashlib.sha256(spec.encode()).hexdigest()
        tag = json.loads(message)["properties"]["delivery_tag"] if message else ""
        answer = self._scripts.call(
            "submit",
            job_id,
            spec,
            digest,
            queue,
            priority_step,
            user_id,
            max_attempts,
            expires_ms,
            message,
            tag,
            tagged(Queued(queue=queue)),
            *(needs.as_args() if needs else ("",)),
        )
        if answer == "CONFLICT":
            raise JobConflict(
                f"job_id {job_id!r} was submitted before, with another configuration; choose "
                "another job_id, or leave it out"
            )
        return bool(answer == "NEW")

    def cancel(self, job_id: str, why: str) -> tuple[bool, JobState]:
        """Cancel a queued job at once, ask it of a running one.

        Returns whether it ended or will end by this, and its state. Raises UnknownJob.
        """
        answer, state = self._scripts.call("cancel", job_id, why, self.terminal_ttl_s)
        if answer == "UNKNOWN":
            raise _unknown(job_id)
        return answer != "ENDED", JobState(state)

    def get(self, job_id: str) -> JobRecord:
        """The record as it stands. Raises UnknownJob."""
        found: dict[str, str] = self.client.hgetall(self.keys.job(job_id))  # type: ignore[assignment]  # a sync client
        if "spec" not in found:
            raise _unknown(job_id)

        def seconds(name: str) -> float:
            return float(found.get(name) or 0) / 1000

        return JobRecord(
            job_id=job_id,
            state=JobState(found["state"]),
            queue=found["queue"],
            user_id=found["user"],
            attempt=int(found["attempt"]),
            max_attempts=int(found["max_attempts"]),
            fence=int(found["fence"]),
            node=found["node"],
            slot=found["slot"],
            submitted=seconds("submitted"),
            started=seconds("started"),
            finished=seconds("finished"),
            reason=found["reason"],
            message=found["error"],
            cancel=found["cancel"],
            spec=json.loads(found["spec"]),
            result=json.loads(found.get("result") or "{}"),
            progress=json.loads(found.get("progress") or "{}"),
            seq=int(found["seq"]),
            image=found.get("image", ""),
            sandbox=json.loads(found.get("sandbox") or "{}"),
            proof=found.get("proof", ""),
            spec_digest=hashlib.sha256(found["spec"].encode()).hexdigest(),
        )

    def ending(self, job_id: str) -> Ending:
        """How a job ended, and what its message said. Raises UnknownJob."""
        names = ("state", "result", "reason", "error", "message", "result_stored")
        found: list[Any] = self.client.hmget(self.keys.job(job_id), names)
        state, result, reason, error, message, stored = found
        if state is None:
            raise _unknown(job_id)
        return Ending(
            state=JobState(state),
            result=json.loads(result or "{}"),
            reason=reason or "",
            message=error or "",
            kombu_message=message or "",
            result_stored=stored == "1",
        )

    def retell(self, job_id: str) -> bool:
        """Push an ended job's message again, so that a worker tells Celery how it ended."""
        return bool(self._scripts.call("retell", job_id))

    def mark_result_stored(self, job_id: str) -> None:
        """Celery has the result of this ended job."""
        self._scripts.call("stored", job_id)


def _unknown(job_id: str) -> UnknownJob:
    return UnknownJob(
        f"no job {job_id!r}: it was never submitted to this Redis under this prefix, or its "
        "record has expired"
    )
