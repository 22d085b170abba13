"""A job's configuration, as the runner gets it: base64 of JSON, and directories by environment."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worker.runner.errors import JobError

_OPTION = "--job-config="


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the runner uses of a job. See docs/model-definition.md."""

    job_id: str
    definition: Mapping[str, Any]
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    dataset_uri: str = ""
    epochs: int = 1
    batch_size: int = 32
    seed: int | None = None
    checkpoint_every: int = 1
    """In epochs; 0: only when it is asked for."""
    attempt: int = 1
    data: Path | None = None
    """The file or directory that ``dataset_uri`` names; None for builtin data."""
    checkpoints: Path = Path("/job/checkpoints")
    output: Path = Path("/job/output")


def read_job(arguments: Sequence[str], env: Mapping[str, str]) -> Job:
    """The job in ``--job-config=`` or ``CYXWIZ_JOB_CONFIG``. Raises JobError."""
    given = [one.removeprefix(_OPTION) for one in arguments if one.startswith(_OPTION)]
    strange = [one for one in arguments if not one.startswith(_OPTION)]
    if strange:
        raise JobError(f"unknown argument {strange[0]!r}; the runner takes {_OPTION}BASE64 only")
    encoded = given[-1] if given else env.get("CYXWIZ_JOB_CONFIG", "")
    if not encoded:
        raise JobError(f"no job: give {_OPTION}BASE64, or set CYXWIZ_JOB_CONFIG")
    try:
        wire = json.loads(base64.b64decode(encoded, validate=True))
    except (binascii.Error, ValueError) as error:
        raise JobError(f"the job's configuration is no base64 of JSON: {error}") from None
    if not isinstance(wire, dict):
        raise JobError("the job's configuration is no JSON object")
    definition = wire.get("model_definition")
    if not isinstance(definition, dict):
        raise JobError("model_definition: the runner trains a model_definition, and there is none")
    try:
        return Job(
            job_id=str(wire.get("job_id") or "job"),
            definition=definition,
            hyperparameters=dict(wire.get("hyperparameters") or {}),
            dataset_uri=str(wire.get("dataset_uri") or ""),
            epochs=int(wire.get("epochs", 1)),
            batch_size=int(wire.get("batch_size", 32)),
            seed=None if wire.get("seed") is None else int(wire["seed"]),
            checkpoint_every=int(wire.get("checkpoint_every", 1)),
            attempt=int(wire.get("attempt", 1)),
            data=Path(env["CYXWIZ_DATA"]) if env.get("CYXWIZ_DATA") else _container_data(),
            checkpoints=Path(env.get("CYXWIZ_CHECKPOINTS") or "/job/checkpoints"),
            output=Path(env.get("CYXWIZ_OUTPUT") or "/job/output"),
        )
    except (TypeError, ValueError) as error:
        raise JobError(f"the job's configuration: {error}") from None


def _container_data() -> Path | None:
    place = Path("/job/data")
    return place if place.exists() else None
