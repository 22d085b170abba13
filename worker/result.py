"""The result of a job that succeeded: what `AsyncResult.get()` returns. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tasks.events import Progress
from worker.store.artifacts import Collected
from worker.stream.decoder import Completion


def missing_output(completion: Completion | None, output: Path) -> str:
    """What is wrong with the model that the job says it wrote; '' if nothing, or it names none."""
    if completion is None or not completion.success or not completion.model_path:
        return ""
    name = _name_of(completion.model_path, output)
    if name is None:
        return f"the model {completion.model_path!r} is not beneath the job's output directory"
    if not (output / name).is_file() or (output / name).is_symlink():
        return f"the model {completion.model_path!r} is no file in the job's output directory"
    return ""


def success_result(
    *,
    job_id: str,
    completion: Completion | None,
    progress: Progress | None,
    kept: Collected,
    output: Path,
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Metrics are the job's claims; artefacts, their sizes and hashes are the node's."""
    metrics: dict[str, float] = {}
    if progress is not None:
        metrics |= progress.metrics
        metrics |= {
            name: value
            for name, value in (("loss", progress.loss), ("accuracy", progress.accuracy))
            if value is not None
        }
    if completion is not None:
        metrics |= completion.metrics
    model = _name_of(completion.model_path, output) if completion is not None else None
    of_model = next((one for one in kept.artifacts if one.name == model), None)
    return {
        "job_id": job_id,
        "metrics": metrics,
        "model_path": f"{kept.place}/{of_model.name}" if of_model else "",
        "sha256": of_model.sha256 if of_model else "",
        "artifacts": [asdict(one) for one in kept.artifacts],
        "artifacts_dir": kept.place,
        **({"refused": list(kept.refused)} if kept.refused else {}),
        **about,
    }


def _name_of(path: str, output: Path) -> str | None:
    """The path beneath the output directory, with '/'; None if it is not there."""
    if not path:
        return None
    given = Path(path)
    for root in (output, Path("/job/output")):
        if given.is_absolute() and given.is_relative_to(root):
            given = given.relative_to(root)
            break
    if given.is_absolute() or ".." in given.parts or not given.parts:
        return None
    return given.as_posix()
