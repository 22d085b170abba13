"""What ends a run, and the exit status that says so.

Fault                 what went wrong, for the one who reads `complete`
├── JobFault          the job is at fault: its definition, its options or its data
└── EnvironmentLacks    this environment lacks a package
    └── NoDevice        … or the GPU that the job must have
Terminated            SIGTERM; no Exception, or a library might swallow it
"""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """The runner's exit statuses."""

    DONE = 0
    INTERNAL = 1
    """A fault of the runner or of a library; the traceback is on stderr."""
    JOB = 2
    """The job is at fault: what `complete` says must be changed in it."""
    ENVIRONMENT = 3
    """The environment lacks a package or a GPU; `complete` names it."""
    MEMORY = 4
    """Memory of the host or the GPU was not enough."""
    TERMINATED = 143
    """SIGTERM: a checkpoint was saved if training had begun."""
    NO_DEVICE = 79
    """The GPUs that the job was granted are not to be seen, or it cannot use them."""


class Fault(Exception):
    """The message says what is wrong and what would be right."""

    exit = Exit.INTERNAL


class JobFault(Fault):
    """The job is at fault."""

    exit = Exit.JOB


def diverged(what: str) -> JobFault:
    """The error for a training whose numbers have become too large. ``what``: shows it."""
    return JobFault(f"{what}: the training diverged; choose a lower learning_rate")


class EnvironmentLacks(Fault):
    """This environment lacks a package or a GPU."""

    exit = Exit.ENVIRONMENT


class NoDevice(EnvironmentLacks):
    """It must compute on a GPU, and would do so on the CPU."""

    exit = Exit.NO_DEVICE


class Terminated(BaseException):
    """SIGTERM has come; the message says what was saved."""
