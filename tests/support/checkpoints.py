"""Where the checkpoints of a job are, as the host sees them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.job import JobConfig
from worker.binding import Binding
from worker.checkpoints import Checkpoints
from worker.node.paths import NodePaths


def bound(config: Mapping[str, Any] | JobConfig, signer: str = "") -> str:
    """To what those of a job with this configuration are bound. ``signer``: the id of its key."""
    return Binding.of(JobConfig.parse(config).digest(), signer).name


def place_of(
    config: Mapping[str, Any] | JobConfig,
    paths: NodePaths,
    shared: Path | None = None,
    signer: str = "",
) -> Path:
    """``config``: with the job's id. ``shared``: storage.checkpoints of the node, if it has any."""
    job = JobConfig.parse(config)
    assert job.job_id is not None
    return Checkpoints(paths=paths, shared=shared).of(job.job_id, bound(job, signer))
