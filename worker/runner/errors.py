"""What can be wrong with a job, seen from inside."""

from __future__ import annotations


class JobError(Exception):
    """The job asks for what cannot be done. The message names the field, layer or column."""


class Stopped(Exception):
    """SIGTERM came; a checkpoint was saved."""
