"""The memory classes that jobs are queued in, and why there are no more of them.

A slot consumes from every queue whose demand it satisfies, and each queue costs it keys in every
BRPOP, so a slot reads at most `MOST_CLASSES`. A job's demand is rounded *up* to the next rung of
a ladder, a slot reads every rung up to its own size, and there is one ladder for each device and
sandbox class. The largest slot with every sandbox reads all of these:

======================  ========  ========  ======
MiB                     required  optional  gvisor   + `any` = sum
======================  ========  ========  ======   =============
a GPU slot (per GPU)           9         6       3        7     25
a CPU slot (host)              8         6       4        7     25
======================  ========  ========  ======   =============

So a rung that is added must be paid for with another. `required` has the finest ladders, because
it is the default. GPU rungs are the sizes of cards in thousands of MiB, a little below what such
cards report. Rungs of host memory are about three quarters of the usual sizes of machines: what
one of 8, 16 or 32 GiB can really give to a job. Rung 0 of host memory is for jobs that ask for
none; the lowest GPU rung is for those that ask for little or nothing.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import Final

from tasks.choices import Device, Sandbox

MOST_CLASSES: Final = 25


class SandboxClass(StrEnum):
    """What a job needs of a node's confinement: by this it is queued."""

    GVISOR = "gvisor"
    REQUIRED = "required"
    """Confined, or on a node that runs untrusted jobs natively by its operator's choice."""
    OPTIONAL = "optional"
    """Signed, and content without a container: a node with trust keys may run it natively."""


def sandbox_class(sandbox: Sandbox, *, signed: bool) -> SandboxClass:
    """The class of a job.

    A job that is not signed is untrusted on every node, so its wish for less confinement changes
    nothing about where it may run.
    """
    if sandbox is Sandbox.GVISOR:
        return SandboxClass.GVISOR
    if signed and sandbox in {Sandbox.PREFERRED, Sandbox.NONE}:
        return SandboxClass.OPTIONAL
    return SandboxClass.REQUIRED


_GPU: Final = MappingProxyType(
    {
        SandboxClass.REQUIRED: (
            4_000, 8_000, 16_000, 24_000, 40_000, 48_000, 80_000, 140_000, 280_000,
        ),
        SandboxClass.OPTIONAL: (4_000, 8_000, 24_000, 48_000, 80_000, 280_000),
        SandboxClass.GVISOR: (4_000, 24_000, 80_000),
    }
)  # fmt: skip
_CPU: Final = MappingProxyType(
    {
        SandboxClass.REQUIRED: (0, 3_072, 6_144, 12_288, 24_576, 49_152, 196_608, 786_432),
        SandboxClass.OPTIONAL: (0, 6_144, 12_288, 49_152, 196_608, 786_432),
        SandboxClass.GVISOR: (0, 6_144, 24_576, 196_608),
    }
)
# `any` costs every slot of every kind, so it is for jobs that fit nearly anywhere.
_ANY: Final = MappingProxyType(
    {
        SandboxClass.REQUIRED: (0, 6_144, 24_576),
        SandboxClass.OPTIONAL: (0, 24_576),
        SandboxClass.GVISOR: (0, 24_576),
    }
)


def rungs(device: Device, sandbox: SandboxClass) -> tuple[int, ...]:
    """The rungs of one ladder, MiB, ascending: GPU memory of each device, else host memory."""
    if device.is_gpu:
        return _GPU[sandbox]
    return (_CPU if device is Device.CPU else _ANY)[sandbox]


def rung_for(device: Device, sandbox: SandboxClass, ask_mb: int | None) -> int | None:
    """The lowest rung that covers ``ask_mb`` (None: asks for nothing); None if none does."""
    return next((rung for rung in rungs(device, sandbox) if rung >= (ask_mb or 0)), None)
