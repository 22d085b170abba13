"""What devices a host has, as everybody else sees them: by UUID, whatever tells of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from tasks.choices import Device as Kind


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuProcess:
    """A process that uses a device."""

    pid: int
    memory_mb: int | None
    """MiB; None where the driver does not tell."""
    graphics: bool = False
    """It draws a screen, and computes nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """One GPU, or one MIG instance of one."""

    uuid: str
    """Its identity: an index moves when another device is lost."""
    kind: Kind = Kind.CUDA
    """cuda or rocm."""
    index: int = 0
    """Where it stands in the driver's list now; for people."""
    name: str = ""
    memory_mb: int = 0
    reserved_mb: int = 0
    """What the driver keeps for itself, MiB."""
    used_mb: int = 0
    """In use by all processes, MiB, without what is reserved."""
    utilisation: int | None = None
    """Percent of time in which it computed; None where that is not told."""
    temperature_c: int | None = None
    power_w: float | None = None
    compute_capability: str = ""
    pci: str = ""
    processes: tuple[GpuProcess, ...] = ()
    tells_processes: bool = True
    """Whether `processes` and `used_mb` are known at all; a static inventory knows neither."""
    parent: str = ""
    """Of a MIG instance: the UUID of its GPU."""
    profile: str = ""
    """Of a MIG instance: such as ``1g.10gb``."""
    partitioned: bool = False
    """MIG is on: it is used by its instances, and never itself."""
    double_bit_errors: int | None = None
    """Of its memory since the driver was loaded; None without ECC."""
    nodes: tuple[str, ...] = ()
    """Device nodes that a job needs, such as ``/dev/dri/renderD128``; ROCm only."""
    fault: str = ""
    """Why it cannot be used; '' if it can."""

    @property
    def total_mb(self) -> int:
        """What jobs can have of it when it is idle, MiB."""
        return max(0, self.memory_mb - self.reserved_mb)


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuEvent:
    """Something that the driver reported of a device."""

    uuid: str
    xid: int | None
    """The Xid; None: a double-bit ECC error."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """All devices at one moment."""

    devices: tuple[Device, ...] = ()
    reason: str = ""
    """Why there are none, or not all; '' where nothing is wrong."""
    driver: str = ""
    cuda: str = ""
    """The newest CUDA that the driver serves, such as 12.4."""
    distances: Mapping[frozenset[str], int] = field(default_factory=dict)
    """Between two devices, by their UUIDs: the smaller, the closer."""

    @property
    def usable(self) -> tuple[Device, ...]:
        """Those that a job can be given."""
        return tuple(one for one in self.devices if not one.partitioned and not one.fault)

    @property
    def cuda_major(self) -> int | None:
        """The major version of `cuda`; None: it is not known."""
        major = self.cuda.partition(".")[0]
        return int(major) if major.isdigit() else None

    def by_uuid(self) -> dict[str, Device]:
        return {one.uuid: one for one in self.devices}

    def distance(self, one: str, other: str) -> int:
        """0 where nothing is known: then all are as close as any."""
        return self.distances.get(frozenset((one, other)), 0)


class Inventory(Protocol):
    """Tells what devices there are."""

    def snapshot(self) -> Snapshot:
        """The devices now. Never raises: what cannot be asked is a reason or a fault."""
        ...

    def close(self) -> None:
        """Let go of drivers, as before a fork. Safe to call twice; the next look begins anew."""
        ...


class StaticInventory:
    """Devices that somebody wrote down: of vendors without a library here, and of tests."""

    def __init__(self, devices: Iterable[Device] = (), *, reason: str = "") -> None:
        """``reason``: why there are no more."""
        self._snapshot = Snapshot(devices=tuple(devices), reason=reason)

    def snapshot(self) -> Snapshot:
        return self._snapshot

    def close(self) -> None:
        pass


class Inventories:
    """Several as one."""

    def __init__(self, *parts: Inventory) -> None:
        self._parts = parts

    def snapshot(self) -> Snapshot:
        found = [part.snapshot() for part in self._parts]
        seen: dict[str, Device] = {}
        for one in found:
            for device in one.devices:
                seen.setdefault(device.uuid, device)  # what a driver tells comes first
        return Snapshot(
            devices=tuple(seen.values()),
            reason="; ".join(one.reason for one in found if one.reason),
            driver=next((one.driver for one in found if one.driver), ""),
            cuda=next((one.cuda for one in found if one.cuda), ""),
            distances={pair: far for one in found for pair, far in one.distances.items()},
        )

    def close(self) -> None:
        for part in self._parts:
            part.close()
