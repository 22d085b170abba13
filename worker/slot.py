"""One slot's processes: the Celery worker (which stays in the main process) and its pool child."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tasks import executor
from tasks.choices import Device
from tasks.errors import ConfigError
from tasks.record import Records
from tasks.routing import SlotOffer, classes_for, direct_queue, slot_queue
from tasks.settings import Settings
from tasks.vouching import Signer
from worker.admission import confinement
from worker.config import NodeConfig, ensure_supported_platform, load
from worker.crew import StandingCrew
from worker.devices.configured import inventory, rules
from worker.devices.inventory import Inventory, StaticInventory
from worker.devices.pool import DevicePool
from worker.engines import Engines, EngineState
from worker.heirs import Heirs
from worker.interruption import Interruptible
from worker.keeper.zygote import Zygote
from worker.node import slot_records
from worker.node.audit import Audit
from worker.node.host_size import host_size
from worker.node.paths import NodePaths
from worker.node.reaper import Reaper
from worker.node.services import teller
from worker.node.slot_lock import take_slot
from worker.orders import Orders
from worker.parts import NodeParts, Place
from worker.runtimes import native_runtime
from worker.sandbox.policy import sandbox_classes
from worker.store.policy import Policy
from worker.store.provide import Store
from worker.supervisor import Supervisor
from worker.trust.keyring import Keyring
from worker.trust.node_key import node_signer
from worker.trust.secrets import Secrets

if TYPE_CHECKING:
    from worker.node.presence import Presence

log = logging.getLogger(__name__)

_CREW = 2
"""Threads beside a job's own: its publisher's and its lease's."""
_MB_OF_A_SMALL_HOST = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnDevices:
    """What the agent says that the slot is made of; a CPU slot where it says nothing."""

    kind: Device = Device.CPU
    uuids: tuple[str, ...] = ()
    memory_mb: int = 0

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> OwnDevices:
        uuids = tuple(filter(None, env.get("CYXWIZ_SLOT_DEVICES", "").split(",")))
        if not uuids:
            return cls()
        return cls(
            kind=Device(env["CYXWIZ_SLOT_KIND"]),
            uuids=uuids,
            memory_mb=int(env["CYXWIZ_SLOT_GPU_MEMORY_MB"]),
        )


class SlotProcess:
    """What one slot's worker does at each point of its life."""

    def __init__(
        self,
        *,
        name: str,
        config: NodeConfig,
        settings: Settings,
        has_agent: bool,
        devices: OwnDevices,
        retired: bool = False,
        hands_back: bool = False,
    ) -> None:
        """``retired``: it takes no job but those that it runs already; ``hands_back``: and gives
        those back."""
        self.name = name
        self._config = config
        self._settings = settings
        self._has_agent = has_agent
        self._paths = NodePaths(state_dir=config.node.state_dir)
        self._host = host_size()
        self._keyring = Keyring(config.trust.keys)
        self._reaper: Reaper | None = None
        self._presence: Presence | None = None
        self._lock = -1
        self._offers_containers = False
        self._devices = devices
        self._retired = retired
        self._hands_back = hands_back
        self._via = ""
        self._cuda: int | None = None

    @classmethod
    def from_env(cls, settings: Settings, env: Mapping[str, str] = os.environ) -> SlotProcess:
        """The slot that the environment names; ``cpu0`` of this host's node where it does not."""
        ensure_supported_platform()
        path = env.get("CYXWIZ_CONFIG")
        config = load(Path(path) if path else None, env)
        overrides: dict[str, str | Path] = {}
        if env.get("CYXWIZ_NODE"):
            overrides["name"] = env["CYXWIZ_NODE"]
        if env.get("CYXWIZ_STATE_DIR"):
            overrides["state_dir"] = Path(env["CYXWIZ_STATE_DIR"])
        config = config.model_copy(update={"node": config.node.model_copy(update=overrides)})
        return cls(
            name=env.get("CYXWIZ_SLOT") or "cpu0",
            config=config,
            settings=replace(settings, lease_ttl_ms=_ttl_ms(config, settings, env)),
            has_agent="CYXWIZ_AGENT_PID" in env,
            devices=OwnDevices.from_env(env),
            retired=env.get("CYXWIZ_SLOT_RETIRED") == "1",
            hands_back=env.get("CYXWIZ_SLOT_HANDS_BACK") == "1",
        )

    def queues(self) -> list[str]:
        """What the slot reads: its own queue, its node's, and each class that it satisfies; its own
        alone if it is retired.

        From now on the slot is this process's. Raises NodeConflict: another worker serves it;
        ConfigError: a file of trust.keys is wrong.
        """
        self._paths.create()
        self._lock = take_slot(self._paths, self.name)
        node = self._config.node.name
        if self._retired:
            return [slot_queue(node, self.name)]
        engine = self._engine_state()
        if engine.usable and self._devices.uuids:
            engine = self._with_devices(engine)
        self._offers_containers = engine.usable
        offer = SlotOffer(
            device=self._devices.kind,
            memory_mb=self._most_memory_mb(),
            gpu_memory_mb=self._devices.memory_mb,
            width=len(self._devices.uuids),
            sandboxes=sandbox_classes(
                confinement(self._config, engine, has_keys=bool(self._keyring.check()))
            ),
            pool=self._config.node.pool,
        )
        classes = [one.name for one in classes_for(offer)]
        if not classes:
            log.warning(
                "slot.idle slot=%s why=this node has no container engine (%s), and "
                "execution.allow_untrusted_native is false: it can run no job",
                self.name,
                engine.reason,
            )
        queues = [slot_queue(node, self.name), direct_queue(node), *classes]
        slot_records.write_queues(self._paths, self.name, queues)
        return queues

    def _with_devices(self, engine: EngineState) -> EngineState:
        """The engine as it is for jobs with GPUs: not usable where no container sees them."""
        from worker.device_probe import DeviceProbe  # no cost to a CPU slot

        engines = Engines(self._config, abandon_after=self._abandon_after)
        devices = inventory(self._config)
        try:
            self._cuda = devices.snapshot().cuda_major
            pool = self._pool(devices)
            share = 1.0 / self._config.gpu.jobs_per_device
            probe = DeviceProbe(engines.runtime(), pool, self._paths, self._place(), share=share)
            seen = probe.seen()
        finally:
            devices.close()  # the pool's child begins with the driver anew
            engines.close()
        self._via = seen.via
        if seen.via:
            slot_records.unmark_unseen(self._paths, self.name)
            return engine
        slot_records.mark_unseen(self._paths, self.name, time.time())
        log.warning("slot.devices_unseen slot=%s why=%s", self.name, seen.why)
        return replace(engine, usable=False, reason=f"no container sees its GPUs: {seen.why}")

    def _pool(self, devices: Inventory) -> DevicePool:
        return DevicePool(
            leases=self._paths.leases,
            attempts=self._paths.attempts,
            inventory=devices,
            rules=rules(self._config),
        )

    def _place(self) -> Place:
        return Place(
            node=self._config.node.name,
            slot=self.name,
            host=self._host,
            offers_containers=self._offers_containers,
            kind=self._devices.kind,
            devices=self._devices.uuids,
            gpu_memory_mb=self._devices.memory_mb,
            via=self._via,
            cuda=self._cuda,
        )

    def ready(self) -> None:
        """The worker takes jobs: tell the agent; without one, do what only it would do."""
        ready = self._paths.slot_ready(self.name)
        partial = ready.with_suffix(".partial")
        partial.write_text(str(os.getpid()))
        partial.replace(ready)
        if not self._has_agent:
            self._reaper = Reaper(
                self._records(),
                self._settings,
                holder=f"{self.name}@{self._config.node.name}",
                tell=teller(self._settings),
            )
            self._reaper.start()
            from worker.node.presence import Presence  # an agent's slot does without

            self._presence = Presence(self._config, self._settings, self._paths, self.name)
            self._presence.start()

    def stop(self) -> None:
        """The worker ends."""
        if self._presence is not None:
            self._presence.stop()
            self._presence = None
        if self._reaper is not None:
            self._reaper.stop()
            self._reaper = None

    def enter_child(self) -> None:
        """In the pool's child, before its first job: take over from an earlier child, and bind."""
        if self._lock >= 0:
            os.close(self._lock)  # a copy: the slot is the worker's, and free as soon as that ends
            self._lock = -1
        self._zygote = Zygote()
        self._engines = Engines(
            self._config, abandon_after=self._abandon_after, zygote=self._zygote
        )
        native = native_runtime(
            state_root=self._paths.state_dir,
            abandon_after=self._abandon_after,
            zygote=self._zygote,
        )
        devices = inventory(self._config) if self._devices.uuids else StaticInventory()
        self._orders = Orders(self._settings, self._config.node.name)
        self._crew = StandingCrew(_CREW)
        parts = NodeParts(
            records=self._records(),
            settings=self._settings,
            config=self._config,
            paths=self._paths,
            pool=self._pool(devices),
            inventory=devices,
            native=native,
            engines=self._engines,
            keyring=self._keyring,
            secrets=Secrets(self._config.trust.secrets),
            audit=Audit(self._paths.audit, node=self._config.node.name, slot=self.name),
            orders=self._orders,
            crew=self._crew,
            place=self._place(),
            signer=self._signer(),
        )
        self._heirs = Heirs(parts, self._tell)
        self._heirs.find()
        self._zygote.start()  # warm before the first job
        self._native = native
        self._bound = Interruptible(
            Supervisor(
                parts,
                self._heirs,
                lambda: slot_records.leaving(self._paths, self.name),
                hands_back=self._hands_back,
            )
        )
        executor.bind(self._bound)
        self._heirs.start()  # not before the slot can go on with them, nor if it never can
        Store(Policy.of(self._config)).sweep()  # which may wait for whoever uses the cache

    def _signer(self) -> Signer | None:
        try:
            return node_signer(self._config, self._paths, self.name)
        except ConfigError as error:  # an agent does not start with it; it came about since
            log.error("trust.unsigned error=%s", error)
            return None

    def _tell(self, job_id: str) -> None:
        """Whoever waits for this job learns now that it ended, not when the reaper finds out."""
        try:
            teller(self._settings)(job_id)
        except Exception as error:  # whatever Celery's backend raises; the reaper comes later
            log.warning("leftover.untold job=%s error=%r", job_id, error)

    def leave_child(self) -> None:
        """The pool's child ends; attempts that run go on."""
        executor.bind(None)
        self._heirs.close(slot_records.leaving(self._paths, self.name))
        self._bound.close()
        self._orders.close()
        self._crew.close()
        self._native.close()
        self._engines.close()
        self._zygote.close()

    @property
    def _abandon_after(self) -> float:
        """Seconds without a supervisor after which an attempt's keeper ends it."""
        return self._settings.lease_ttl_ms / 1000 + self._config.timeouts.lease_grace

    def _engine_state(self) -> EngineState:
        engines = Engines(self._config, abandon_after=self._abandon_after)
        try:
            return engines.state()
        finally:
            engines.close()

    def _records(self) -> Records:
        return Records(
            self._settings.connect(),
            self._settings.keys,
            terminal_ttl_s=self._settings.result_ttl_s,
        )

    def _most_memory_mb(self) -> int:
        cap = self._config.docker.max_limits.memory_mb
        has = self._host.memory_mb or _MB_OF_A_SMALL_HOST
        return min(cap, has) if cap else has


def _ttl_ms(config: NodeConfig, settings: Settings, env: Mapping[str, str]) -> int:
    """The environment's lease TTL, else the configuration's."""
    if env.get("CYXWIZ_LEASE_TTL"):
        return settings.lease_ttl_ms
    return round(config.timeouts.lease_ttl * 1000)
