"""Jobs of the record for tests that need no Celery: submitted, claimed, read back."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any, Final

from tasks.cluster import Cluster, NodeStatus
from tasks.events import Envelope, Event, Log, Progress, Resumed, Retrying, decode
from tasks.job import JobConfig
from tasks.leases import tagged
from tasks.needs import needs_of
from tasks.publishing import kombu_message
from tasks.record import Records
from tasks.recorded import Claimed, Lease, Lost, NotClaimed
from tasks.routing import route
from tasks.state import FailureReason, JobState
from tests.support.fleet import PaperNode
from worker.node.reaper import Reaper

TTL_MS = 60_000
RESUMED: Final = tagged(Resumed(why="written again"))
CUDA: Final = {"required_device": "cuda", "gpus": 1, "gpu_memory_mb": 20_000}

REAPER_TTL_MS: Final = 4_000
"""Of leases, to a reaper of `make_reaper`."""
Enter = Callable[..., PaperNode]
"""Has a node of a name, of some offers, and else as `tests.support.fleet.node`, enter."""
MakeReaper = Callable[..., Reaper]
"""Makes a reaper for a holder, with the arguments of a Reaper, which a test calls itself."""


def job_config(**fields: Any) -> JobConfig:
    """A job with an id of its own, if it names none."""
    return JobConfig.parse(
        {"command": ["true"], "job_id": f"job-{uuid.uuid4().hex[:12]}", **fields}
    )


def submit(records: Records, *, expires_ms: int = 0, needing: bool = False, **fields: Any) -> str:
    """Record a job as a producer does; its id. ``needing``: with what it needs of a node, as
    `JobAMQP` does."""
    job = job_config(**fields)
    assert job.job_id is not None
    way = route(job)
    headers = {"id": job.job_id, "task": "tasks.train"}
    message = kombu_message(headers, {}, ((job.to_wire(),), {}, {}), way.queue, way.priority_step)
    records.submit(
        job_id=job.job_id,
        spec=job.canonical(),
        queue=way.queue,
        priority_step=way.priority_step,
        user_id=job.user_id,
        max_attempts=job.max_attempts,
        expires_ms=expires_ms,
        message=message,
        needs=needs_of(way.queue) if needing else None,
    )
    return job.job_id


def requeue(records: Records, lease: Lease, **how: Any) -> JobState:
    """As a supervisor whose attempt met a fault of the engine, but for what ``how`` says."""
    given: dict[str, Any] = {
        "reason": FailureReason.ENGINE_ERROR,
        "delay_ms": 0,
        "counts": True,
        "message": "why",
        **how,
    }
    retrying = tagged(Retrying(reason="engine_error"))
    return records.leases.requeue(lease, [retrying], **given)


def try_claim(
    records: Records, job_id: str, *, owner: str = "", node: str = "node-a", ttl_ms: int = TTL_MS
) -> Claimed | NotClaimed:
    return records.leases.claim(
        job_id,
        owner=owner or uuid.uuid4().hex,
        node=node,
        slot="cpu0",
        ttl_ms=ttl_ms,
        delivery_tag="",
    )


def claim(records: Records, job_id: str, **how: Any) -> Lease:
    """The lease of a claim that must succeed."""
    found = try_claim(records, job_id, **how)
    assert isinstance(found, Claimed), found
    return found.lease


def run_out(records: Records, job_id: str) -> None:
    """As if nobody had renewed the job's lease for an hour."""
    past = records.client.time()[0] * 1000 - 3_600_000
    records.client.hset(records.keys.job(job_id), "exp", past)
    records.client.zadd(records.keys.leases, {job_id: past}, xx=True)


def restore(records: Records, claim: Claimed, *, event: str = RESUMED, **how: Any) -> None:
    """Write the record again that Redis has lost, as the supervisor of an attempt that goes on."""
    given: dict[str, Any] = {"seq": 3, "batch": 1, **how}
    lost = Lost(
        queue="q.any",
        priority_step=6,
        user_id="ann",
        max_attempts=3,
        node="node-a",
        slot="cpu0",
        gpus=0,
    )
    records.leases.restore(claim, lost, TTL_MS, event=event, **given)


def in_the_past(records: Records, index: str, job_id: str) -> None:
    """As if the time at which the job is due in ``index`` had come."""
    assert records.client.zadd(index, {job_id: 1}, xx=True, ch=True) == 1


def finish(records: Records, lease: Lease, *events: Event, **how: Any) -> None:
    given: dict[str, Any] = {"reason": None, "message": "", "result": {"ok": True}, **how}
    state = given.pop("state", JobState.SUCCEEDED)
    records.leases.finish(lease, state, [tagged(event) for event in events], **given)


def history(records: Records, job_id: str) -> list[Envelope]:
    """Every event that is stored, in order."""
    keys = records.keys
    both = records.client.pipeline()  # at one moment: more may come in between
    both.xrange(keys.history(job_id))
    both.xrange(keys.tail(job_id))
    rows = [row for part in both.execute() for row in part]
    return sorted((decode(row["e"]) for _, row in rows), key=lambda one: one.seq)


def types(records: Records, job_id: str) -> list[str]:
    return [one.type for one in history(records, job_id)]


def messages(records: Records, job_id: str) -> list[dict[str, Any]]:
    """The job's messages in its queue, newest first."""
    keys, client = records.keys, records.client
    queue, step = client.hmget(keys.job(job_id), "queue", "priority")
    found = [json.loads(text) for text in client.lrange(keys.message_list(queue, int(step)), 0, -1)]
    return [one for one in found if one["headers"]["id"] == job_id]


def progress(epoch: int) -> Progress:
    return Progress(epoch=epoch, total_epochs=100, progress=epoch / 100)


def log(*lines: str) -> Log:
    return Log(lines=lines)


def status(cluster: Cluster, name: str) -> NodeStatus | None:
    """Whether a node lives; None: nothing is known of it."""
    found = cluster.node(name)
    return found and found.status
