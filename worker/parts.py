"""What every attempt in a slot uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tasks.choices import Device
from tasks.record import Records
from tasks.recorded import Claimed, Lease
from tasks.seals import Sealer
from tasks.sent import SentCheckpoints
from tasks.settings import Settings
from tasks.vouching import Signer
from worker.checkpoints import Checkpoints
from worker.config import NodeConfig
from worker.crew import Crew
from worker.devices.fitness import SlotDevices
from worker.devices.inventory import Inventory
from worker.devices.pool import DevicePool
from worker.engines import Engines
from worker.keeping import Keeping
from worker.launchers import Launcher
from worker.launchers.native import NativeLauncher
from worker.limits import HostSize
from worker.node.audit import Audit
from worker.node.paths import NodePaths
from worker.orders import Orders
from worker.runtimes.base import Runtime
from worker.store.policy import Policy
from worker.store.saved import SavedCheckpoints
from worker.trust.keyring import Keyring
from worker.trust.secrets import Secrets

NATIVE: Final = "native"
"""The mode of attempts that run without an engine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Which slot of which node this is."""

    node: str
    slot: str
    host: HostSize
    offers_containers: bool = False
    """Its engine could be used when it began to read its queues."""
    kind: Device = Device.CPU
    """What the slot is made of: cpu, cuda or rocm."""
    devices: tuple[str, ...] = ()
    """The UUIDs of its devices; empty for a CPU slot."""
    gpu_memory_mb: int = 0
    """The most memory of each of its devices that a job can have, MiB."""

    via: str = ""
    """How the node's engine is asked for them: see `worker.runtimes.engine.gpus`."""
    cuda: int | None = None
    """The newest major version of CUDA that the driver of its devices can do; None: not known."""

    @property
    def slot_devices(self) -> SlotDevices:
        return SlotDevices(kind=self.kind, width=len(self.devices), memory_mb=self.gpu_memory_mb)


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeParts:
    """What every attempt in a slot uses."""

    records: Records
    settings: Settings
    config: NodeConfig
    paths: NodePaths
    pool: DevicePool
    inventory: Inventory
    native: Runtime
    engines: Engines
    keyring: Keyring
    secrets: Secrets
    audit: Audit
    orders: Orders
    crew: Crew
    place: Place
    signer: Signer | None = None
    """Signs how jobs end; None where the node does not."""

    @property
    def checkpoints(self) -> Checkpoints:
        """Where those of jobs lie."""
        return Checkpoints(paths=self.paths, shared=self.config.storage.shared_checkpoints)

    def keeping(self, lease: Lease, bound: str) -> Keeping | None:
        """What sends the checkpoints of an attempt to the store; None: there is none. ``bound``:
        see `Keeping`."""
        url = self.config.storage.checkpoint_store
        if url is None:
            return None
        policy = Policy.of(self.config)
        store = SavedCheckpoints(policy, url)
        index = SentCheckpoints(self.records.client, self.records.keys)
        return Keeping(store, index, self.checkpoints, self.records, lease, policy, bound)

    def sealer(self, claim: Claimed) -> Sealer | None:
        """Signs the events of this attempt; None where the node signs none."""
        if self.signer is None or not self.config.trust.sign_events:
            return None
        return Sealer(
            signer=self.signer,
            job_id=claim.lease.job_id,
            fence=claim.lease.fence,
            attempt=claim.attempt,
        )

    def launcher(self, mode: str, also_images: tuple[str, ...] = ()) -> Launcher:
        """How attempts of ``mode`` are started. ``also_images``: patterns beside images.allow.

        Raises ConfigError: the node has no such mode.
        """
        if mode == NATIVE:
            return NativeLauncher(self.native, self.config, self.paths)
        from worker.launchers.container import ContainerLauncher  # no cost to a native node

        return ContainerLauncher(
            self.engines.runtime(),
            self.paths,
            device=self.place.kind,
            cuda=self.place.cuda,
            also_images=also_images,
        )

    def recovering(self) -> list[Runtime]:
        """What finds the attempts of earlier supervisors."""
        return [self.native, *self.engines.recovering()]
