"""What is left of a demo: the model, at a place that outlives it, and proof that it is whole."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.cli.exits import CommandFailed


class DemoFailed(CommandFailed):
    """The job succeeded and its model is not what was promised; or it cannot be kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """The model that was kept."""

    model: Path
    sha256: str
    """Of the file as it lies there."""


def writable(directory: Path) -> Path:
    """The directory, absolute and there. Raises DemoFailed before anything is started."""
    directory = directory.absolute()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise DemoFailed(
            f"{directory}: the model cannot be kept there: {error.strerror}; "
            "name another directory with --output"
        ) from None
    return directory


def keep(result: Mapping[str, Any], directory: Path) -> Kept:
    """Copy the job's artefacts to ``directory``. Raises DemoFailed: something is missing or other.

    Each is hashed as it lies there, and that must be what the node has said.
    """
    source = Path(str(result.get("artifacts_dir") or ""))
    model: Path | None = None
    try:
        for one in result.get("artifacts") or ():
            name = str(one["name"])
            target = directory / name
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f".{target.name}.partial")
            shutil.copyfile(source / name, partial)
            partial.replace(target)
            with target.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != one["sha256"]:
                raise DemoFailed(f"{target}: SHA-256 {digest}, and the node said {one['sha256']}")
            if str(source / name) == result.get("model_path"):
                model, of_model = target, digest
    except OSError as error:
        raise DemoFailed(f"the model cannot be kept: {error}") from None
    if model is None:
        raise DemoFailed("the job succeeded and left no model")
    return Kept(model=model, sha256=of_model)
