"""What an agent does for its node's devices, beside the slots: watches their health, clears up
after dead holders, and knows how it stands.
"""

from __future__ import annotations

from typing import Final

from worker.config import NodeConfig
from worker.devices.configured import events, inventory, rules
from worker.devices.health import HealthWatch
from worker.devices.inventory import Snapshot
from worker.devices.pool import DevicePool, DeviceState, PoolState, why_unfit
from worker.node.paths import NodePaths
from worker.node.registry import GpuEntry
from worker.node.rounds import Rounds

_LOOK_EVERY_S: Final = 2.0


class DeviceCare:
    """A thread of its own, where the node has devices."""

    def __init__(
        self, config: NodeConfig, paths: NodePaths, *, look_every: float = _LOOK_EVERY_S
    ) -> None:
        """``look_every``: seconds."""
        devices = inventory(config)
        self._pool = DevicePool(
            leases=paths.leases,
            attempts=paths.attempts,
            inventory=devices,
            rules=rules(config),
        )
        self._watch = HealthWatch(devices, events(), self._pool.health)
        self._rounds = Rounds("devices", self.look, look_every)
        self.facts = PoolState(snapshot=devices.snapshot(), devices=())
        """May be read from any thread."""
        self._drained: dict[str, str] = {}

    @property
    def snapshot(self) -> Snapshot:
        return self.facts.snapshot

    def start(self) -> None:
        """Begin."""
        if self.snapshot.devices:
            self._rounds.start()

    def stop(self) -> None:
        """End. Safe to call twice."""
        self._rounds.stop()

    def look(self) -> PoolState:
        """Look at every device, and clear up after the dead."""
        self._drained = self._watch.look()
        self._pool.reap()
        self.facts = self._pool.state()
        return self.facts

    def unwell(self) -> dict[str, str]:
        """Devices that no job may be given: UUID to why. Those too that are there no more: where
        the driver has gone, or an instance of a GPU."""
        found = {one.device.uuid: why_unfit(one) for one in self.facts.devices}
        return {**self._drained, **{uuid: why for uuid, why in found.items() if why}}

    def entries(self) -> tuple[GpuEntry, ...]:
        """For the node's record."""
        return tuple(_entry(one) for one in self.facts.devices)


def _entry(state: DeviceState) -> GpuEntry:
    device = state.device
    return GpuEntry(
        uuid=device.uuid,
        kind=device.kind,
        name=device.name,
        memory_mb=device.memory_mb,
        used_mb=device.used_mb,
        utilisation=device.utilisation,
        temperature_c=device.temperature_c,
        parent=device.parent,
        jobs=len(state.held),
        wrong=why_unfit(state),
    )
