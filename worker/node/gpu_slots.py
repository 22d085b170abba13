"""Which slots a node's GPUs make. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.choices import Device as Kind
from tasks.errors import ConfigError
from worker.config import NodeConfig
from worker.devices.configured import memory_for_a_job
from worker.devices.inventory import Device, Snapshot
from worker.node.slots import Slot, SlotKind


def gpu_slots(config: NodeConfig, snapshot: Snapshot) -> tuple[Slot, ...]:
    """By the configuration's ``slots.gpu``: one for each device, or one for each set.

    Raises:
        ConfigError: a set names a device that is not there, or devices that do not go together.
    """
    wanted = config.slots.gpu
    sets: list[tuple[Device, ...]]
    if isinstance(wanted, str):
        sets = [(device,) for device in snapshot.devices if not device.partitioned]
    else:
        sets = [_resolved(group, snapshot) for group in wanted]
    slots: list[Slot] = []
    for devices in sets:
        slots += _slots_of(config, devices, snapshot)
    return tuple(slots)


def slot_of(config: NodeConfig, devices: Sequence[Device], name: str) -> Slot:
    """One slot with these devices."""
    return Slot(
        name=name,
        kind=SlotKind(devices[0].kind),
        devices=tuple(one.uuid for one in devices),
        gpu_memory_mb=min(memory_for_a_job(config, one) for one in devices),
    )


def name_of(devices: Sequence[Device], snapshot: Snapshot) -> str:
    """Such as ``gpu0``, ``gpu2-3`` or, of a MIG instance, ``gpu0-mig1``."""
    gpus = snapshot.by_uuid()
    first = devices[0]
    if first.parent:
        return f"gpu{gpus[first.parent].index}-mig{first.index}"
    kind = "rocm" if first.kind is Kind.ROCM else "gpu"
    return kind + "-".join(str(one.index) for one in devices)


def _slots_of(config: NodeConfig, devices: tuple[Device, ...], snapshot: Snapshot) -> list[Slot]:
    slot = slot_of(config, devices, name_of(devices, snapshot))
    jobs = config.gpu.jobs_per_device
    if jobs == 1:
        return [slot]
    names = [f"{slot.name}-{chr(ord('a') + number)}" for number in range(jobs)]
    return [slot_of(config, devices, name) for name in names]


def _resolved(group: Sequence[int | str], snapshot: Snapshot) -> tuple[Device, ...]:
    found = tuple(_named(one, snapshot) for one in group)
    parted = [one.uuid for one in found if one.partitioned]
    if parted:
        raise ConfigError(
            f"slots.gpu: {', '.join(parted)} is split into MIG instances; name these instead"
        )
    if len(found) > 1 and any(one.parent for one in found):
        raise ConfigError(
            "slots.gpu: a process uses one MIG instance at most, so an instance stands alone"
        )
    if len({one.kind for one in found}) > 1:
        raise ConfigError("slots.gpu: devices of one slot must be of one kind, cuda or rocm")
    if len({one.uuid for one in found}) != len(found):
        raise ConfigError("slots.gpu: a device stands in a set twice")
    return found


def _named(wanted: int | str, snapshot: Snapshot) -> Device:
    for one in snapshot.devices:
        by_index = isinstance(wanted, int) and not one.parent and one.index == wanted
        if one.uuid == wanted or by_index:
            return one
    there = ", ".join(f"{one.uuid} (index {one.index})" for one in snapshot.devices) or "none"
    raise ConfigError(
        f"slots.gpu: no device {wanted!r}; there are: {there}"
        + (f" ({snapshot.reason})" if snapshot.reason else "")
    )
