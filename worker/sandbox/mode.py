"""How one job runs on one host: natively, in which engine, or not at all. Pure.

`worker.sandbox.policy` has the table; here it is asked with what a host can do and with what the
job wants, and answered with a reason that a person can act on.
"""

from __future__ import annotations

from dataclasses import dataclass

from tasks.choices import Sandbox
from worker.config import ExecutionMode
from worker.sandbox.engine_report import EngineReport, ExecutionCapabilities
from worker.sandbox.levels import SandboxLevel
from worker.sandbox.policy import Confinement, Placement, placement


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeRules:
    """What the operator allows."""

    mode: ExecutionMode
    allow_untrusted_native: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Selected:
    """How the job runs."""

    mode: ExecutionMode
    """native, docker or podman."""
    level: SandboxLevel
    why: str
    warning: str = ""
    """What a job goes without, on a node that would have put it into a container."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NoMode:
    """It does not run here."""

    why: str


def select_execution_mode(
    capabilities: ExecutionCapabilities,
    rules: NodeRules,
    *,
    requires_sandbox: bool,
    prefers_container: bool,
    requires_gvisor: bool = False,
    trusted: bool = False,
) -> Selected | NoMode:
    """How a job runs on a host with these capabilities.

    ``requires_sandbox``: it runs in a container or not at all. ``prefers_container``: it would
    rather. ``trusted``: signed by a key of the node that covers it; what others want counts only
    where it is more, never less.
    """
    engine = usable_engine(capabilities, rules.mode)
    node = Confinement(
        mode=rules.mode,
        engine_usable=engine is not None,
        allow_untrusted_native=rules.allow_untrusted_native,
        has_trust_keys=trusted,
        has_gvisor=capabilities.has_gvisor,
    )
    wish = wished(requires_sandbox, prefers_container, requires_gvisor)
    match placement(node, wish, trusted=trusted):
        case Placement.CONTAINER:
            assert engine is not None  # noqa: S101 - the table has no container without one
            name = engine.facts.name
            return Selected(
                mode=ExecutionMode(name),
                level=engine.level,
                why=f"{name} {engine.facts.version} is usable",
            )
        case Placement.NATIVE:
            missed = engine is None and rules.mode is not ExecutionMode.NATIVE
            lacking = why_no_engine(capabilities, rules.mode)
            return Selected(
                mode=ExecutionMode.NATIVE,
                level=SandboxLevel.NONE,
                why="the job is trusted" if trusted else "execution.allow_untrusted_native is true",
                warning=f"no sandbox: no container engine is usable: {lacking}" if missed else "",
            )
        case Placement.NOWHERE:
            if wish is Sandbox.GVISOR and engine is not None:
                return NoMode(why="gvisor is asked for, and this node has no runsc")
            return NoMode(why=why_no_engine(capabilities, rules.mode))


def wished(requires_sandbox: bool, prefers_container: bool, requires_gvisor: bool) -> Sandbox:
    """A job's ``sandbox``."""
    if requires_gvisor:
        return Sandbox.GVISOR
    if requires_sandbox:
        return Sandbox.REQUIRED
    return Sandbox.PREFERRED if prefers_container else Sandbox.NONE


def usable_engine(capabilities: ExecutionCapabilities, mode: ExecutionMode) -> EngineReport | None:
    """The engine that a node in this mode uses now."""
    match mode:
        case ExecutionMode.NATIVE:
            return None
        case ExecutionMode.AUTO:
            return capabilities.best()
        case ExecutionMode.DOCKER | ExecutionMode.PODMAN:
            named = capabilities.engine(str(mode))
            return named if named is not None and named.usable else None


def why_no_engine(capabilities: ExecutionCapabilities, mode: ExecutionMode) -> str:
    """Why a node in this mode uses no engine; in one line that names each that it might have."""
    if mode is ExecutionMode.NATIVE:
        return "execution.mode is native"
    reasons = [
        one.reason if one.reason.startswith(one.facts.name) else f"{one.facts.name}: {one.reason}"
        for one in capabilities.engines
        if one.reason and mode in (ExecutionMode.AUTO, one.facts.name)
    ]
    return "; ".join(reasons) or "this node has no container engine"
