"""The closed choices in a job's configuration."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class JobType(StrEnum):
    """What kind of work a job is: a label for people and reports, not a rule."""

    TRAINING = "training"
    EVALUATION = "evaluation"
    INFERENCE = "inference"
    PREPROCESSING = "preprocessing"


class Priority(StrEnum):
    """Which of the waiting jobs of one queue is served first."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"
    CRITICAL = "critical"

    @property
    def step(self) -> int:
        """kombu's priority step (0, 3, 6 or 9); 0 is served first."""
        return _STEPS[self]


_STEPS: Final = {Priority.CRITICAL: 0, Priority.HIGH: 3, Priority.NORMAL: 6, Priority.LOW: 9}


class Device(StrEnum):
    """What a job must have to run, and what a slot is made of (a slot is never `ANY`)."""

    CPU = "cpu"
    CUDA = "cuda"
    ROCM = "rocm"
    ANY = "any"
    """Whatever comes first: a CPU slot or a slot with GPUs."""

    @property
    def is_gpu(self) -> bool:
        """Whether it names a kind of GPU."""
        return self in {Device.CUDA, Device.ROCM}


class Sandbox(StrEnum):
    """How a job wants to be confined; the node's policy has the last word."""

    REQUIRED = "required"
    """In a container, or not at all."""
    PREFERRED = "preferred"
    """In a container where there is an engine; a signed job may run natively elsewhere."""
    NONE = "none"
    """Natively, if the job is trusted; an untrusted job is confined all the same."""
    GVISOR = "gvisor"
    """In a container under gVisor, or not at all."""


class Network(StrEnum):
    """What a job may reach."""

    NONE = "none"
    BRIDGE = "bridge"
    """The engine's own network, where the node allows it."""
