"""What an attempt in a slot is granted: the slot, and its devices where it has any."""

from __future__ import annotations

from typing import Final

from tasks.job import JobConfig
from worker.devices.allocation import Request
from worker.devices.pool import HeldGrant
from worker.parts import NodeParts
from worker.plan import AttemptId

_WITHIN_S: Final = 5.0
"""For a device that an earlier job of this slot is about to let go of."""


def grant(parts: NodeParts, attempt: AttemptId, job: JobConfig) -> HeldGrant:
    """The whole slot.

    Raises RuntimeUnavailable: it, or a device of it, is not to be had now.
    """
    place = parts.place
    if not place.devices:
        return parts.pool.grant_cpu(place.slot)
    jobs = parts.config.gpu.jobs_per_device
    request = Request(
        count=len(place.devices),
        only=frozenset(place.devices),
        share=1.0 / jobs,
        memory_mb=promised_mb(parts, job),
        user=job.user_id or "",
    )
    return parts.pool.grant(place.slot, request, attempt=str(attempt), timeout=_WITHIN_S)


def promised_mb(parts: NodeParts, job: JobConfig) -> int:
    """Memory of each device that the job may use, MiB; 0: all of it.

    On a device that it shares, what it asked for, else an equal part. On one of its own, what the
    node's limit leaves it.
    """
    gpu = parts.config.gpu
    if gpu.jobs_per_device > 1:
        return job.gpu_memory_mb or parts.place.gpu_memory_mb
    return gpu.memory_limit_mb
