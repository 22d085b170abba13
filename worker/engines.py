"""The container engine of a node: which one it uses, and whether it can be used now.

Every process that needs one has an `Engines` of its own. Nothing is imported or connected before
somebody asks, and a node that runs jobs natively asks nothing at all.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tasks.errors import ConfigError
from worker.attestor import Attestor
from worker.config import ExecutionMode, NodeConfig
from worker.runtimes import engine_runtime
from worker.runtimes.base import Runtime
from worker.sandbox.engine_report import EngineFacts, EngineReport, ExecutionCapabilities
from worker.sandbox.levels import SandboxLevel
from worker.sandbox.mode import usable_engine, why_no_engine

if TYPE_CHECKING:
    from worker.keeper.zygote import Zygote
    from worker.runtimes.engine.runtime import EngineRuntime

__all__ = ["EngineState", "Engines", "SandboxLevel", "allowed_engines", "engine_state"]

_FRESH_S: Final = 2.0
"""So long an engine's word holds: jobs that follow each other closely ask it once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineState:
    """What a node's container engine is good for now."""

    capabilities: ExecutionCapabilities = field(default_factory=ExecutionCapabilities)
    """Of the engines that were asked, one by one."""
    chosen: EngineReport | None = None
    """The engine that the node uses, or would if it could; None where it uses none."""
    usable: bool = False
    reason: str = ""
    """Why it is not usable; '' if it is."""

    @property
    def name(self) -> str:
        """docker or podman; '' where the node uses none."""
        return self.chosen.facts.name if self.chosen else ""

    @property
    def version(self) -> str:
        return self.chosen.facts.version if self.chosen else ""

    @property
    def available(self) -> bool:
        """It answers: images can be fetched, though jobs may not be allowed to run."""
        return self.chosen is not None and self.chosen.available

    @property
    def level(self) -> SandboxLevel:
        """Of a job in one of its containers."""
        return self.chosen.level if self.chosen else SandboxLevel.NONE


class Engines:
    """See the module's docstring. Thread-safe."""

    def __init__(
        self, config: NodeConfig, *, abandon_after: float, zygote: Zygote | None = None
    ) -> None:
        """``abandon_after``: seconds without a supervisor after which attempts end. A ``zygote``
        that is given stays the caller's to close."""
        self._config = config
        self._abandon_after = abandon_after
        self._zygote = zygote
        self._lock = threading.Lock()
        self._attestor = Attestor(config)
        self._runtimes: dict[str, EngineRuntime] = {}
        self._state = EngineState()
        self._until = 0.0

    def state(self, *, now: bool = False) -> EngineState:
        """What the node's engine is good for. ``now``: ask it, however lately it was asked."""
        with self._lock:
            if now or time.monotonic() >= self._until:
                self._state = self._ask()
                self._until = time.monotonic() + _FRESH_S
            return self._state

    def configure(self, config: NodeConfig) -> None:
        """From now on, an engine as this has it; attempts that run go on."""
        self.close()
        with self._lock:
            self._config = config
            self._attestor = Attestor(config)
            self._state = EngineState()

    def doubt(self) -> None:
        """Something went wrong with it: the next `state` asks."""
        self._until = 0.0

    def runtime(self) -> EngineRuntime:
        """The runtime of the node's engine, usable or not.

        Raises ConfigError: the node uses none.
        """
        with self._lock:
            names = allowed_engines(self._config)
            if not names:
                raise ConfigError(engine_state(self._config, ()).reason)
            seen = self._state.name
            return self._made(seen if seen in names else names[0])

    def prove_network(self, network: str) -> None:
        """See that jobs may join this network of the node's engine. Each time: a rule is soon
        gone. Raises RuntimeUnavailable: they may not, or nobody can tell."""
        from worker.runtimes.engine.networks import prove_network

        prove_network(self.runtime().manager, network)

    def recovering(self) -> list[Runtime]:
        """What finds attempts in containers again: nothing where the node uses no engine."""
        with self._lock:
            return [self._made(name) for name in allowed_engines(self._config)]

    def close(self) -> None:
        """Let go of what this object holds; attempts that run go on."""
        with self._lock:
            for made in self._runtimes.values():
                made.close()
            self._runtimes.clear()
            self._until = 0.0

    def _made(self, name: str) -> EngineRuntime:
        if name not in self._runtimes:
            self._runtimes[name] = engine_runtime(
                name, self._config, abandon_after=self._abandon_after, zygote=self._zygote
            )
        return self._runtimes[name]

    def _ask(self) -> EngineState:
        """Of the best engine: the first that is whole is not looked past."""
        found: list[EngineReport] = []
        for name in allowed_engines(self._config):
            try:
                runtime = self._made(name)
            except ConfigError as error:  # its file of logins
                facts = EngineFacts(name=name, version="")
                found.append(EngineReport(facts=facts, reason=str(error)))
                continue
            found.append(self._attestor.report(runtime))
            if found[-1].level is SandboxLevel.FULL:
                break
        return engine_state(self._config, found)


def allowed_engines(config: NodeConfig) -> list[str]:
    """The engines that the configuration names, or lets be used; first the one that is preferred
    where two are alike."""
    enabled = {"docker": config.docker.enabled, "podman": config.podman.enabled}
    match config.execution.mode:
        case ExecutionMode.NATIVE:
            return []
        case ExecutionMode.DOCKER | ExecutionMode.PODMAN as mode:
            return [str(mode)] if enabled[str(mode)] else []
        case ExecutionMode.AUTO:
            return [name for name, fine in enabled.items() if fine]


def engine_state(config: NodeConfig, reports: Iterable[EngineReport]) -> EngineState:
    """What the best of these engines is good for, of those that the configuration allows."""
    mode, allowed = config.execution.mode, allowed_engines(config)
    found = [*_switched_off(config), *(one for one in reports if one.facts.name in allowed)]
    best = usable_engine(ExecutionCapabilities(engines=tuple(found)), mode)
    capabilities = ExecutionCapabilities(
        engines=tuple(found), has_gvisor=best is not None and best.gvisor
    )
    candidates = [one for one in found if one.facts.name in allowed]
    answering = (one for one in candidates if one.available)
    return EngineState(
        capabilities=capabilities,
        chosen=best or next(answering, candidates[0] if candidates else None),
        usable=best is not None,
        reason="" if best else why_no_engine(capabilities, mode),
    )


def _switched_off(config: NodeConfig) -> list[EngineReport]:
    """The engines that the node may not use."""
    enabled = {"docker": config.docker.enabled, "podman": config.podman.enabled}
    return [
        EngineReport(facts=EngineFacts(name=name, version=""), reason=f"{name}.enabled is false")
        for name, fine in enabled.items()
        if not fine
    ]
