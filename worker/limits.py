"""What an attempt may use: what the job asks for, within what the node allows. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.job import JobConfig
from worker.config import NodeConfig
from worker.plan import Limits


@dataclass(frozen=True, kw_only=True, slots=True)
class HostSize:
    """What the host has; 0 for what is not known."""

    memory_mb: int = 0
    cpu_cores: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class OverCap:
    """The job asks for more than this node gives to any job; another node may."""

    reason: str


def effective_limits(
    job: JobConfig, config: NodeConfig, host: HostSize | None = None
) -> Limits | OverCap:
    """The limits of an attempt of ``job`` here, or why it cannot have what it asks for.

    A job that asks for nothing gets ``default_limits``; it may ask for ``max_limits``. A 0 there
    means the cap: of a default, the maximum; of a maximum, what the host has.
    """
    host = host or HostSize()
    default, most = config.docker.default_limits, config.docker.max_limits
    memory_cap = _cap(most.memory_mb, host.memory_mb)
    cores_cap = _cap(most.cpu_cores, host.cpu_cores)
    over = [
        f"{field} is {ask:g}, and this node gives at most {cap:g} (docker.max_limits.{field})"
        for field, ask, cap in (
            ("memory_mb", job.memory_mb, memory_cap),
            ("cpu_cores", job.cpu_cores, cores_cap),
            ("shm_size_mb", job.shm_size_mb, most.shm_size_mb),
        )
        if ask is not None and 0 < cap < ask
    ]
    if over:
        return OverCap(reason="; ".join(over))
    return Limits(
        memory_mb=round(_granted(job.memory_mb, default.memory_mb, memory_cap)),
        cpu_cores=_granted(job.cpu_cores, default.cpu_cores, cores_cap),
        shm_size_mb=round(_granted(job.shm_size_mb, default.shm_size_mb, most.shm_size_mb)),
        pids=round(_granted(None, default.pids, most.pids)),
        nofile=config.native.nofile,
        output_mb=config.storage.output_mb,
    )


def _cap(configured: float, has: float) -> float:
    """The lower of two caps, of which 0 is none."""
    return min(cap for cap in (configured, has) if cap) if configured or has else 0.0


def _granted(ask: float | None, default: float, cap: float) -> float:
    if ask is not None:
        return float(ask)
    wanted = default or cap
    return float(min(wanted, cap) if cap else wanted)


def effective_timeout(job: JobConfig, config: NodeConfig) -> float | None:
    """Seconds that an attempt may take: the job's ``timeout_seconds``, under ``timeouts.job``."""
    given = [seconds for seconds in (job.timeout_seconds, config.timeouts.job or None) if seconds]
    return min(given, default=None)
