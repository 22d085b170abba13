"""The container engine of a node: which one it uses, and whether it can be used now.

Every process that needs one has an `Engines` of its own. Nothing is imported or connected before
somebody asks, and a node that runs jobs natively asks nothing at all.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from tasks.errors import ConfigError
from worker.config import ExecutionMode, NodeConfig
from worker.runtimes import engine_runtime
from worker.runtimes.base import Runtime

if TYPE_CHECKING:
    from worker.keeper.zygote import Zygote
    from worker.runtimes.engine.runtime import EngineRuntime

_FRESH_S: Final = 2.0
"""So long an engine's word holds: jobs that follow each other closely ask it once."""


class SandboxLevel(IntEnum):
    """How far a node confines jobs."""

    NONE = 0
    """Natively, or in a container whose sandbox the operator has loosened."""
    BASIC = 1
    """Rootless Podman."""
    FULL = 2
    """Docker."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineState:
    """What an engine is good for now."""

    name: str = ""
    """docker or podman; '' where the node uses none."""
    usable: bool = False
    reason: str = ""
    """Why it is not usable; '' if it is."""
    version: str = ""
    level: SandboxLevel = SandboxLevel.NONE
    """Of a job in one of its containers."""


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
        self._runtime: EngineRuntime | None = None
        self._state = EngineState()
        self._until = 0.0

    def state(self, *, now: bool = False) -> EngineState:
        """What the node's engine is good for. ``now``: ask it, however lately it was asked."""
        with self._lock:
            if now or time.monotonic() >= self._until:
                self._state = self._ask()
                self._until = time.monotonic() + _FRESH_S
            return self._state

    def doubt(self) -> None:
        """Something went wrong with it: the next `state` asks."""
        self._until = 0.0

    def runtime(self) -> EngineRuntime:
        """The runtime of the node's engine, usable or not.

        Raises ConfigError: the node uses none.
        """
        with self._lock:
            return self._made()

    def recovering(self) -> list[Runtime]:
        """What finds attempts in containers again: nothing where the node uses no engine."""
        return [self.runtime()] if self._chosen() else []

    def close(self) -> None:
        """Let go of what this object holds; attempts that run go on."""
        with self._lock:
            if self._runtime is not None:
                self._runtime.close()
                self._runtime = None
            self._until = 0.0

    def _chosen(self) -> str:
        """The engine that the configuration names, or lets be used; '' for none."""
        match self._config.execution.mode:
            case ExecutionMode.NATIVE | ExecutionMode.PODMAN:
                return ""
            case ExecutionMode.DOCKER | ExecutionMode.AUTO:
                return "docker" if self._config.docker.enabled else ""

    def _made(self) -> EngineRuntime:
        if self._runtime is None:
            name = self._chosen()
            if not name:
                raise ConfigError(self._why_none())
            self._runtime = engine_runtime(
                name, self._config, abandon_after=self._abandon_after, zygote=self._zygote
            )
        return self._runtime

    def _ask(self) -> EngineState:
        name = self._chosen()
        if not name:
            return EngineState(reason=self._why_none())
        try:
            runtime = self._made()
        except ConfigError as error:  # its file of logins
            return EngineState(name=name, reason=str(error))
        found = runtime.capabilities()
        return EngineState(
            name=name,
            usable=found.available,
            reason=found.reason,
            version=runtime.version() if found.available else "",
            level=SandboxLevel.NONE if runtime.loosened else SandboxLevel.FULL,
        )

    def _why_none(self) -> str:
        match self._config.execution.mode:
            case ExecutionMode.NATIVE:
                return "execution.mode is native"
            case ExecutionMode.PODMAN:
                return "execution.mode is podman, which no runtime drives yet"
            case _:
                return "docker.enabled is false"
