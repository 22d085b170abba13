"""What is known of the container engines of a host: what they are, and what they are good for.

What an engine says of itself counts for nothing where a promise of the sandbox is concerned: see
`worker.sandbox.attestation`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from worker.sandbox.gvisor import KERNEL
from worker.sandbox.levels import SandboxLevel


class Keeping(StrEnum):
    """How a promise is kept."""

    ENFORCED = "enforced"
    STOOD_IN = "stood in for"
    """By something else than the engine, which was seen to hold."""
    ACCEPTED = "not enforced, and accepted"
    REFUSED = "refused"
    """It does not hold: jobs that it is made to do not run in this engine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Promise:
    """One promise of the sandbox on this host."""

    name: str
    keeping: Keeping
    seen: str
    """What was seen of it."""
    why: str = ""
    """Why it does not hold; '' where it does."""
    todo: str = ""
    """What to do about that."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineFacts:
    """What is known of an engine without a probe."""

    name: str
    version: str
    runtime: str = ""
    """Of the OCI runtime, such as ``runc 1.1.5``."""
    toolkit: str = ""
    """NVIDIA's container toolkit: its version and how the engine knows it, as far as that is
    known; '' where none was found."""
    gvisor: bool = False
    """Jobs are to have gVisor's kernel."""
    rootless: bool = False
    cgroup_version: int = 0
    storage: str = ""
    why_ignored: str = ""
    """Why it keeps no limits here; '' if it does."""
    loosened: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineReport:
    """One container engine of this host."""

    facts: EngineFacts
    available: bool = False
    """It answers, and this node may use it."""
    reason: str = ""
    """Why jobs do not run in it; '' if they do."""
    todo: str = ""
    promises: tuple[Promise, ...] = ()
    """Empty where no probe has run."""
    images: tuple[str, ...] = ()
    """Those that the node may use."""
    warnings: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """Jobs that need a sandbox may run in it."""
        return self.available and not self.reason

    @property
    def gvisor(self) -> bool:
        """It was seen that jobs have gVisor's kernel."""
        return self.usable and self.facts.gvisor and KERNEL in self.enforced

    @property
    def enforced(self) -> tuple[str, ...]:
        """The promises that hold, by whatever means."""
        held = (Keeping.ENFORCED, Keeping.STOOD_IN)
        return tuple(one.name for one in self.promises if one.keeping in held)

    @property
    def level(self) -> SandboxLevel:
        """None, unless each promise holds and the operator has loosened nothing."""
        whole = self.promises and len(self.enforced) == len(self.promises)
        if not self.usable or not whole or self.facts.loosened:
            return SandboxLevel.NONE
        return SandboxLevel.BASIC if self.facts.rootless else SandboxLevel.FULL


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecutionCapabilities:
    """What a host can do for jobs that want a container."""

    engines: tuple[EngineReport, ...] = ()
    has_gvisor: bool = False
    """The engine that would be used gives jobs gVisor's kernel."""

    @property
    def docker_available(self) -> bool:
        return self._available("docker")

    @property
    def podman_available(self) -> bool:
        return self._available("podman")

    @property
    def nvidia_toolkit(self) -> bool:
        """An engine that can be used has NVIDIA's toolkit."""
        return any(one.usable and one.facts.toolkit for one in self.engines)

    @property
    def max_sandbox_level(self) -> SandboxLevel:
        return max((one.level for one in self.engines), default=SandboxLevel.NONE)

    @property
    def available_images(self) -> tuple[str, ...]:
        return tuple(sorted({image for one in self.engines if one.usable for image in one.images}))

    def engine(self, name: str) -> EngineReport | None:
        return next((one for one in self.engines if one.facts.name == name), None)

    def best(self) -> EngineReport | None:
        """The usable engine of the highest level; Docker, where two are alike. None: there is
        none."""
        usable = [one for one in self.engines if one.usable]
        return max(usable, key=lambda one: (one.level, one.facts.name == "docker"), default=None)

    def _available(self, name: str) -> bool:
        found = self.engine(name)
        return found is not None and found.available


def to_json(report: EngineReport) -> dict[str, Any]:
    """For people and programs: ``cyxwiz doctor --json``."""
    facts = report.facts
    return {
        "engine": {name: getattr(facts, name) for name in EngineFacts.__dataclass_fields__},
        "available": report.available,
        "usable": report.usable,
        "level": report.level.name.lower(),
        "reason": report.reason,
        "todo": report.todo,
        "promises": [
            {name: str(getattr(one, name)) for name in Promise.__dataclass_fields__}
            for one in report.promises
        ],
        "images": list(report.images),
        "warnings": list(report.warnings),
    }
