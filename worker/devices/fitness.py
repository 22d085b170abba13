"""Whether the devices of a slot are those that a job asks for. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.choices import Device as Kind
from tasks.job import JobConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class SlotDevices:
    """What a slot is made of."""

    kind: Kind = Kind.CPU
    width: int = 0
    """How many GPUs; 0 for a CPU slot."""
    memory_mb: int = 0
    """The most memory of each that a job can have, MiB."""


def unfit(job: JobConfig, slot: SlotDevices) -> str:
    """What the job asks for and the slot has not; '' where it has all."""
    if job.required_device is Kind.ANY:
        return ""
    if job.required_device is not slot.kind:
        return (
            f"required_device: {job.required_device} is asked for, and this is a {slot.kind} slot"
        )
    if not slot.kind.is_gpu:
        return ""
    if job.width != slot.width:
        return f"gpus: {job.width} are asked for, and this slot has {slot.width}"
    if (job.gpu_memory_mb or 0) > slot.memory_mb:
        return (
            f"gpu_memory_mb: {job.gpu_memory_mb} are asked for, and a job can have "
            f"{slot.memory_mb} of each GPU of this slot"
        )
    return ""
