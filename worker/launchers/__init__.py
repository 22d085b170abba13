"""How one attempt is started: as a process of the node, or in a container of its engine.

A run knows this port only. What a container needs beside (an image, chosen and fetched by the
node's rules) is in `prepare`, which may take long and is done under the lease.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tasks.job import JobConfig
from worker.plan import AttemptId, Grant, LaunchPlan, Limits, SecretFiles
from worker.runtimes.base import Handle, Runtime
from worker.store.code import Code


@dataclass(frozen=True, kw_only=True, slots=True)
class Picked:
    """The image of an attempt; all '' for a native one."""

    reference: str = ""
    """As the job, or the node's rules, name it."""
    id: str = ""
    """The engine's, so that nobody can move a tag meanwhile."""
    digest: str = ""
    """``REPOSITORY@sha256:…``; '' for an image that no registry has."""
    why: str = ""
    note: str = ""
    """Why it is another image than the attempt before ran; '' if it is not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What is to be started, whichever way."""

    job: JobConfig
    attempt: AttemptId
    number: int
    """1 for the first attempt."""
    grant: Grant
    limits: Limits
    checkpoints: Path
    data: Path | None
    code: Code | None
    secrets: SecretFiles | None = None
    network: str = ""
    """The engine's network that it joins; '': none."""

    @property
    def wire(self) -> str:
        """The job's configuration as its program gets it: base64 of JSON."""
        job = self.job
        content = {
            **job.to_wire(),
            "job_id": self.attempt.job_id,
            "attempt": self.number,
            "epochs": job.epochs,
        }
        return base64.b64encode(json.dumps(content).encode()).decode("ascii")


class Launcher(Protocol):
    """See the module's docstring."""

    @property
    def runtime(self) -> Runtime: ...

    def prepare(
        self, job: JobConfig, before: Picked | None, progress: Callable[[str, str], None]
    ) -> Picked:
        """Have what the attempt needs here. ``before``: the image that an earlier attempt ran, its
        digest as the id if it has one. ``progress``: told an image, and how its pull gets on.

        Raises RuntimeUnavailable, and what ``progress`` raises.
        """
        ...

    def plan(self, asked: Asked, picked: Picked) -> LaunchPlan: ...

    def report(self, handle: Handle) -> dict[str, Any]:
        """What was seen of the attempt's sandbox, for the job's record; {} where it has none."""
        ...
