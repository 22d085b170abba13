"""Whether this node runs a job, and how: decided before anything is granted or started. Pure.

A refusal is for good: no node may run the job as it stands. A hand-back is this node's alone; a
job that was handed back for want of a sandbox and comes again has found no node that has one.
"""

from __future__ import annotations

from dataclasses import dataclass

from tasks.choices import Network, Sandbox
from tasks.job import JobConfig
from tasks.state import FailureReason
from worker.config import ExecutionMode, NodeConfig
from worker.devices.fitness import SlotDevices, unfit
from worker.engines import EngineState, SandboxLevel
from worker.limits import HostSize, OverCap, effective_limits
from worker.plan import Limits
from worker.sandbox.mode import NodeRules, NoMode, select_execution_mode
from worker.sandbox.policy import Confinement
from worker.trust.entitlement import lacking
from worker.trust.keyring import UNSIGNED, Standing


@dataclass(frozen=True, kw_only=True, slots=True)
class Admitted:
    """It runs here."""

    mode: str
    """native, docker or podman."""
    level: SandboxLevel
    why: str
    """For people, in the `admitted` event and the result."""
    warning: str = ""
    """What a job that runs natively for want of an engine goes without."""
    limits: Limits


@dataclass(frozen=True, kw_only=True, slots=True)
class HandBack:
    """It does not run here now; another node, or this one later, may take it."""

    reason: FailureReason
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """Policy forbids it."""

    reason: FailureReason
    message: str


def confinement(
    config: NodeConfig, engine: EngineState, *, has_keys: bool | None = None
) -> Confinement:
    """What the node can do, as the sandbox policy sees it. ``has_keys``: whether it trusts anybody;
    None: whether the configuration names a key."""
    return Confinement(
        mode=config.execution.mode,
        engine_usable=engine.usable,
        allow_untrusted_native=config.execution.allow_untrusted_native,
        has_trust_keys=bool(config.trust.keys) if has_keys is None else has_keys,
        has_gvisor=engine.capabilities.has_gvisor,
    )


def admit(
    job: JobConfig,
    config: NodeConfig,
    host: HostSize,
    engine: EngineState,
    standing: Standing = UNSIGNED,
    *,
    last_reason: str = "",
    engine_expected: bool = False,
    devices: SlotDevices = SlotDevices(),  # noqa: B008 - frozen
    secrets: frozenset[str] = frozenset(),
) -> Admitted | HandBack | Refused:
    """The decision for a job on a slot of this node, which has these ``devices``.

    ``standing``: whose job it is. ``last_reason``: why the attempt before this one ended, or was
    handed back. ``engine_expected``: the slot offered containers when it began to read its queues,
    so an engine that is away now will be back. ``secrets``: the names of those that the node has.
    """
    lacks = lacking(job, standing)
    if lacks is not None:
        if lacks.elsewhere:
            return _not_here(lacks.message, last_reason)
        return Refused(reason=FailureReason.UNTRUSTED, message=lacks.message)
    chosen = select_execution_mode(
        engine.capabilities,
        NodeRules(
            mode=config.execution.mode,
            allow_untrusted_native=config.execution.allow_untrusted_native,
        ),
        requires_sandbox=job.sandbox in {Sandbox.REQUIRED, Sandbox.GVISOR},
        prefers_container=job.sandbox is not Sandbox.NONE,
        requires_gvisor=job.sandbox is Sandbox.GVISOR,
        trusted=standing.native,
    )
    if isinstance(chosen, NoMode):
        return _nowhere(job, config, chosen, engine, standing, last_reason, engine_expected)
    network = config.docker.network if chosen.mode is ExecutionMode.DOCKER else ""
    unable = _unable(job, chosen.mode, last_reason, devices, secrets, network)
    if unable is not None:
        return unable
    limits = effective_limits(job, config, host)
    if isinstance(limits, OverCap):
        return HandBack(reason=FailureReason.OUT_OF_MEMORY, message=limits.reason)
    if standing.key is not None:
        limits = standing.key.scope.capped(limits)
    native = chosen.mode is ExecutionMode.NATIVE
    return Admitted(
        mode=str(chosen.mode),
        level=chosen.level,
        why=(
            _why_native(engine, standing) if native else f"{chosen.why}; {_why_contained(standing)}"
        ),
        warning=chosen.warning,
        limits=limits,
    )


def _nowhere(
    job: JobConfig,
    config: NodeConfig,
    none: NoMode,
    engine: EngineState,
    standing: Standing,
    last_reason: str,
    engine_expected: bool,
) -> HandBack | Refused:
    if job.sandbox is Sandbox.GVISOR and not engine.capabilities.has_gvisor:
        return Refused(
            reason=FailureReason.SANDBOX_UNAVAILABLE,
            message="sandbox: gvisor is asked for, and this node has no runsc",
        )
    message = (
        f"sandbox: {job.sandbox} is asked for, and this node has no container engine to give it "
        f"({none.why}); it runs untrusted jobs natively only with "
        f"execution.allow_untrusted_native: true ({_whose(standing)})"
    )
    elsewhere = standing.signed and standing.key is None  # another node may trust it
    if config.execution.mode is ExecutionMode.NATIVE and not elsewhere:
        return Refused(reason=FailureReason.SANDBOX_UNAVAILABLE, message=message)
    if engine_expected:
        return HandBack(
            reason=FailureReason.ENGINE_ERROR,
            message=f"the container engine is away: {none.why}",
        )
    if last_reason == FailureReason.SANDBOX_UNAVAILABLE:
        return Refused(reason=FailureReason.SANDBOX_UNAVAILABLE, message=message)
    return HandBack(reason=FailureReason.SANDBOX_UNAVAILABLE, message=message)


def _not_here(message: str, last_reason: str) -> HandBack | Refused:
    """Another node may trust the job, or have what it asks for; one that comes again found none."""
    turn = Refused if last_reason == FailureReason.UNTRUSTED else HandBack
    return turn(reason=FailureReason.UNTRUSTED, message=message)


def _unable(
    job: JobConfig,
    mode: ExecutionMode,
    last_reason: str,
    devices: SlotDevices,
    secrets: frozenset[str],
    network: str,
) -> HandBack | Refused | None:
    """What this slot of this node cannot give, and must not pretend to."""
    if why := unfit(job, devices):
        return HandBack(reason=FailureReason.NO_DEVICE, message=why)
    if job.image is not None and mode is ExecutionMode.NATIVE:
        return HandBack(
            reason=FailureReason.IMAGE_UNAVAILABLE,
            message=f"image: {job.image} is asked for, and this node runs jobs natively",
        )
    missing = [name for name in job.secrets if name not in secrets]
    if missing:
        message = f"secrets: this node has none of the name {', '.join(missing)}"
        return _not_here(message, last_reason)
    if job.network is not Network.NONE and mode is not ExecutionMode.NATIVE and not network:
        only = " (with Docker only, docker.network)" if mode is ExecutionMode.PODMAN else ""
        message = f"network: {job.network} is asked for, and this node has none for jobs{only}"
        return _not_here(message, last_reason)
    return None


def _whose(standing: Standing) -> str:
    """Why it may not run natively, for people."""
    scope = "" if standing.key is None else ", and native is not in the key's scope"
    return f"{standing.why}{scope}"


def _why_contained(standing: Standing) -> str:
    if standing.key is None:
        return "unsigned jobs run in a container"
    native = "; it may run natively if it says sandbox: none" if standing.native else ""
    return f"{standing.why}{native}"


def _why_native(engine: EngineState, standing: Standing) -> str:
    if standing.native:
        return (
            f"{standing.why}, whose scope has native runs; memory, processes and output are "
            "capped, the network is not confined"
        )
    return (
        f"{engine.reason or 'no container engine is in use'}, and "
        "execution.allow_untrusted_native lets unsigned jobs run without a sandbox; memory, "
        "processes and output are capped, the network is not confined"
    )
