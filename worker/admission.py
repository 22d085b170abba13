"""Whether this node runs a job, and how: decided before anything is granted or started. Pure.

A refusal is for good: no node may run the job as it stands. A hand-back is this node's alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from tasks.choices import Device
from tasks.job import JobConfig
from tasks.state import FailureReason
from worker.config import ExecutionMode, NodeConfig
from worker.limits import HostSize, OverCap, effective_limits
from worker.plan import Limits
from worker.sandbox.policy import Confinement, Placement, placement


@dataclass(frozen=True, kw_only=True, slots=True)
class Admitted:
    """It runs here."""

    mode: str
    """native."""
    why: str
    """For people, in the `admitted` event and the result."""
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


def confinement(config: NodeConfig) -> Confinement:
    """What the node can do, as the sandbox policy sees it. No container engine is driven yet."""
    return Confinement(
        mode=config.execution.mode,
        engine_usable=False,
        allow_untrusted_native=config.execution.allow_untrusted_native,
        has_trust_keys=bool(config.trust.keys),
        has_gvisor=False,
    )


def admit(job: JobConfig, config: NodeConfig, host: HostSize) -> Admitted | HandBack | Refused:
    """The decision for a job on a CPU slot of this node."""
    # No signature can be verified yet, so nothing is trusted, whatever it says of itself.
    where = placement(confinement(config), job.sandbox, trusted=False)
    if where is not Placement.NATIVE:
        return Refused(
            reason=FailureReason.SANDBOX_UNAVAILABLE,
            message=f"sandbox: {job.sandbox} is asked for, and this node has no container engine "
            "to give it; it runs untrusted jobs natively only with "
            "execution.allow_untrusted_native: true",
        )
    unable = _unable(job)
    if unable is not None:
        return unable
    limits = effective_limits(job, config, host)
    if isinstance(limits, OverCap):
        return HandBack(reason=FailureReason.OUT_OF_MEMORY, message=limits.reason)
    return Admitted(mode="native", why=_why(config), limits=limits)


def _unable(job: JobConfig) -> HandBack | Refused | None:
    """What a native CPU slot cannot give, and must not pretend to."""
    if job.required_device not in (Device.CPU, Device.ANY):
        return HandBack(
            reason=FailureReason.NO_DEVICE,
            message=f"required_device: {job.required_device} is asked for, and this is a CPU slot",
        )
    if job.image is not None:
        return HandBack(
            reason=FailureReason.IMAGE_UNAVAILABLE,
            message=f"image: {job.image} is asked for, and this node runs jobs natively",
        )
    if job.secrets:
        return Refused(
            reason=FailureReason.UNTRUSTED,
            message="secrets: only a job that a key of the node has signed gets any",
        )
    return None


def _why(config: NodeConfig) -> str:
    how = (
        "execution.mode is native"
        if config.execution.mode is ExecutionMode.NATIVE
        else "no container engine is in use on this node"
    )
    return (
        f"{how}, and execution.allow_untrusted_native lets unsigned jobs run without a sandbox; "
        "memory, processes and output are capped, the network is not confined"
    )
