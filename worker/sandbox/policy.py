"""What a node may do with a job: in a container, natively, or not at all. Pure.

The table of the design, for a job at hand (`placement`); what the node subscribes to
(`sandbox_classes`) follows from it.

====================  =============  =================================================  ==========
mode                  engine usable  the job                                            result
====================  =============  =================================================  ==========
auto, docker, podman  yes            any, but trusted with ``none``                     container
auto, docker, podman  yes            trusted with ``none``                              native
native, or no engine                 trusted with ``none`` or ``preferred``; or any     native
                                     but ``gvisor``, with ``allow_untrusted_native``
native, or no engine                 any other                                          nowhere
any                   without runsc  ``gvisor``                                         nowhere
====================  =============  =================================================  ==========
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tasks.choices import Sandbox
from tasks.ladders import SandboxClass
from worker.config import ExecutionMode


class Placement(StrEnum):
    """Where an attempt of a job runs."""

    CONTAINER = "container"
    NATIVE = "native"
    NOWHERE = "nowhere"


@dataclass(frozen=True, kw_only=True, slots=True)
class Confinement:
    """What a node can and may do, as the policy sees it."""

    mode: ExecutionMode
    engine_usable: bool
    allow_untrusted_native: bool
    has_trust_keys: bool
    has_gvisor: bool
    """runsc is there, and the engine has shown that it uses it."""

    @property
    def containers(self) -> bool:
        """Whether jobs run in containers here."""
        return self.engine_usable and self.mode is not ExecutionMode.NATIVE


def placement(node: Confinement, sandbox: Sandbox, *, trusted: bool) -> Placement:
    """Where a job runs here. ``trusted``: signed by one of the node's keys that covers it."""
    if sandbox is Sandbox.GVISOR:
        usable = node.containers and node.has_gvisor
        return Placement.CONTAINER if usable else Placement.NOWHERE
    if node.containers:
        native = trusted and sandbox is Sandbox.NONE
        return Placement.NATIVE if native else Placement.CONTAINER
    content = trusted and sandbox in {Sandbox.NONE, Sandbox.PREFERRED}
    return Placement.NATIVE if content or node.allow_untrusted_native else Placement.NOWHERE


def sandbox_classes(node: Confinement) -> frozenset[SandboxClass]:
    """The sandbox classes whose queues the node reads, for it can place their jobs; empty: it can
    run nothing at all. Whether a signed job is trusted here shows when it comes."""
    jobs = {
        SandboxClass.GVISOR: (Sandbox.GVISOR, False),
        SandboxClass.REQUIRED: (Sandbox.REQUIRED, False),
        SandboxClass.OPTIONAL: (Sandbox.PREFERRED, node.has_trust_keys),
    }
    return frozenset(
        found
        for found, (sandbox, trusted) in jobs.items()
        if placement(node, sandbox, trusted=trusted) is not Placement.NOWHERE
    )
