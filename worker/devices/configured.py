"""What a node's configuration says of its devices: who tells of them, and how they are given."""

from __future__ import annotations

import ctypes
from typing import Final

from tasks.choices import Device as Kind
from worker.config import NodeConfig
from worker.devices.allocation import UNEXPLAINED_MB, Rules
from worker.devices.health import Events, NoEvents
from worker.devices.inventory import Device, Inventories, Inventory, StaticInventory
from worker.gpu_section import DeviceSection

_LIBRARY: Final = "libnvidia-ml.so.1"
_KFD: Final = "/dev/kfd"
_DRIVERS_PART: Final = 16
"""Of a small device, one in so many MiB is left to its driver, beside what that reserves."""


def inventory(config: NodeConfig) -> Inventory:
    """All devices of this host: NVIDIA's by NVML, and those that are written down."""
    written = [_device(number, one) for number, one in enumerate(config.gpu.devices)]
    if not _has_nvml():
        why = f"no NVIDIA GPUs: {_LIBRARY} cannot be loaded (no NVIDIA driver, or it was not "
        return StaticInventory(written, reason=f"{why}passed into this container)")
    from worker.devices.nvml import NvmlInventory  # no cost to a host without GPUs

    return Inventories(NvmlInventory(), StaticInventory(written))


def events() -> Events:
    """Where this host's driver says what befalls its devices."""
    if not _has_nvml():
        return NoEvents()
    from worker.devices.nvml import NvmlEvents

    return NvmlEvents()


def rules(config: NodeConfig) -> Rules:
    """How they are given."""
    return Rules(
        min_available_mb=config.gpu.min_available_memory_mb,
        max_jobs=config.gpu.jobs_per_device,
    )


def memory_for_a_job(config: NodeConfig, device: Device) -> int:
    """The most memory of ``device`` that one job can have, MiB.

    Where jobs share it, an equal part: so much less than all of it that the driver's own memory
    keeps none of them out.
    """
    gpu = config.gpu
    whole = device.memory_mb
    if gpu.jobs_per_device > 1:
        drivers = min(UNEXPLAINED_MB, device.total_mb // _DRIVERS_PART)
        whole = (device.total_mb - drivers) // gpu.jobs_per_device
    return min(whole, gpu.memory_limit_mb) if gpu.memory_limit_mb else whole


def _device(number: int, one: DeviceSection) -> Device:
    nodes = one.nodes
    if one.kind is Kind.ROCM and _KFD not in nodes:
        nodes = (_KFD, *nodes)
    return Device(
        uuid=one.uuid,
        kind=one.kind,
        index=number,
        name=one.name,
        memory_mb=one.memory_mb,
        tells_processes=False,
        nodes=nodes,
    )


def _has_nvml() -> bool:
    try:
        ctypes.CDLL(_LIBRARY)
    except OSError:
        return False
    return True
