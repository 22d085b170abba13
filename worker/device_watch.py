"""Watches the devices of a running attempt: what it uses of them, and whether they are well."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tasks import events
from worker.devices.inventory import Device, Inventory, Snapshot
from worker.devices.owners import processes_of
from worker.outcome import Ended
from worker.plan import AttemptId

log = logging.getLogger(__name__)

_LOOK_EVERY_S: Final = 1.0
_TELL_EVERY_S: Final = 10.0


@dataclass(kw_only=True, slots=True)
class DeviceUsage:
    """What an attempt has used of one device so far."""

    memory_mb: int = 0
    """At the last look, MiB."""
    peak_memory_mb: int = 0
    looks: int = 0
    utilisation: int = 0
    """The sum of what was seen at each look, percent."""
    told: int = 0
    """Looks at which the driver told it."""

    @property
    def mean_utilisation(self) -> float | None:
        return self.utilisation / self.told if self.told else None

    def to_json(self) -> dict[str, Any]:
        mean = self.mean_utilisation
        return {
            "peak_memory_mb": self.peak_memory_mb,
            **({} if mean is None else {"mean_utilisation": round(mean, 1)}),
        }


def own_memory(device: Device, pids: frozenset[int]) -> int:
    """MiB of a device that these processes use."""
    return sum(one.memory_mb or 0 for one in device.processes if one.pid in pids)


class DeviceWatch:
    """A thread beside the attempt: a driver that hangs must not hold up its output."""

    def __init__(
        self,
        inventory: Inventory,
        devices: tuple[str, ...],
        attempt: AttemptId,
        *,
        attempts: Path,
        limit_mb: int,
        drained: Callable[[], Mapping[str, str]],
        end: Callable[[Ended, str], None],
        tell: Callable[[events.Event], None],
        every: float = _LOOK_EVERY_S,
    ) -> None:
        """
        ``attempts``: the directory of attempts' state. ``limit_mb``: of each device, for the job;
        0: none. ``drained``: devices that are not well. ``end``: stops the attempt, and says why.
        ``tell``: takes its usage, from time to time. ``every``: seconds.
        """
        self._inventory = inventory
        self._devices = devices
        self._attempt = attempt
        self._attempts = attempts
        self._limit_mb = limit_mb
        self._drained = drained
        self._end = end
        self._tell = tell
        self._every = every
        self._stop = threading.Event()
        self._begun = time.monotonic()
        self._tell_at = self._begun + _TELL_EVERY_S
        self.usage = {uuid: DeviceUsage() for uuid in devices}
        self._thread = threading.Thread(target=self._run, name="devices", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Safe to call twice. A look that hangs in the driver is left behind."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(self._every)

    def totals(self) -> dict[str, Any]:
        """For the attempt's result and its last `usage` event."""
        return {
            "gpus": {uuid: one.to_json() for uuid, one in self.usage.items()},
            "gpu_seconds": round((time.monotonic() - self._begun) * len(self._devices), 3),
        }

    def look(self) -> None:
        """One look: counts what is used, and stops the attempt if something is wrong."""
        snapshot = self._inventory.snapshot()
        known = snapshot.by_uuid()
        drained = self._drained()
        pids = self._own(snapshot)
        for uuid in self._devices:
            device = known.get(uuid)
            if device is None or device.fault or uuid in drained:
                why = drained.get(uuid) or (device.fault if device else "it is not there any more")
                self._end(Ended.DEVICE_LOST, f"device {uuid}: {why}")
                return
            self._count(device, pids)
        for uuid, usage in self.usage.items():
            if self._limit_mb and usage.memory_mb > self._limit_mb:
                self._end(
                    Ended.GPU_MEMORY,
                    f"used {usage.memory_mb} MiB of {uuid}, and its share is {self._limit_mb}",
                )

    def _count(self, device: Device, pids: frozenset[int]) -> None:
        usage = self.usage[device.uuid]
        usage.looks += 1
        usage.memory_mb = own_memory(device, pids)
        usage.peak_memory_mb = max(usage.peak_memory_mb, usage.memory_mb)
        if device.utilisation is not None:
            usage.told += 1
            usage.utilisation += device.utilisation

    def _own(self, snapshot: Snapshot) -> frozenset[int]:
        listed = {
            one.pid
            for device in snapshot.devices
            if device.uuid in self.usage
            for one in device.processes
        }
        return processes_of(self._attempts, listed).get(str(self._attempt), frozenset())

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            try:
                self.look()
                self._tell_usage()
            except Exception:  # the attempt goes on without its watch
                log.exception("device.watch_broken attempt=%s", self._attempt)

    def _tell_usage(self) -> None:
        now = time.monotonic()
        if now >= self._tell_at:
            self._tell_at = now + _TELL_EVERY_S
            seconds = round(now - self._begun, 3)
            self._tell(events.Usage(wall_seconds=seconds, so_far=True, **self.totals()))
