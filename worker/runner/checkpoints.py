"""Checkpoints: written whole, hashed, the last few kept, and the last whole one found again.

A checkpoint is a safetensors file and, beside it, its hash in a file that ``sha256sum -c`` reads.
The hash is written last, so a checkpoint without one is not finished; one whose hash is another
has been damaged. Neither is used. No pickle: a checkpoint can hold no program.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from worker.runner import tensorfile
from worker.runner.lazy import Array
from worker.runner.protocol import log

_NAME: Final = re.compile(r"epoch-(?P<epoch>\d+)(?:-step-(?P<step>\d+))?\.safetensors")
_FORMAT: Final = "cyxwiz-checkpoint-1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Saved:
    """A whole checkpoint."""

    path: Path
    epoch: int
    """Epochs that were over."""
    step: int
    """Steps of the next one that were taken; 0: it had not begun."""
    tensors: Mapping[str, Array]
    values: Mapping[str, Any]


class Checkpoints:
    """The checkpoints of one job, in one directory."""

    def __init__(self, directory: Path, *, keep: int, made_from: str) -> None:
        """``made_from``: what they depend on; those made from something else are not used."""
        self._directory = directory
        self._keep = keep
        self._made_from = made_from

    def save(
        self, epoch: int, step: int, tensors: Mapping[str, Array], values: Mapping[str, Any]
    ) -> tuple[Path, str]:
        """Write a checkpoint and remove the oldest; its path and SHA-256. Raises OSError."""
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / _name(epoch, step)
        _hash_file(path).unlink(missing_ok=True)  # an earlier one of that name is over
        sha256 = tensorfile.write(
            path,
            tensors,
            {
                "format": _FORMAT,
                "made_from": self._made_from,
                "values": json.dumps(values, allow_nan=False),
            },
        )
        _write_text(_hash_file(path), f"{sha256}  {path.name}\n")
        self._remove_oldest()
        return path, sha256

    def latest(self) -> Saved | None:
        """The last whole checkpoint of this job. What is left aside is said in the log."""
        for path in reversed(self._finished()):
            try:
                return self._read(path)
            except tensorfile.NotWhole as error:
                log(f"checkpoint {path.name} is not used: {error}")
        return None

    def _finished(self) -> list[Path]:
        """Those with a hash beside them, oldest first."""
        if not self._directory.is_dir():
            return []
        found = [
            path
            for path in self._directory.iterdir()
            if _NAME.fullmatch(path.name) and path.is_file() and _hash_file(path).is_file()
        ]
        return sorted(found, key=lambda path: _place(path.name))

    def _read(self, path: Path) -> Saved:
        try:
            told = _hash_file(path).read_text(encoding="ascii").split()[0]
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except (OSError, ValueError, IndexError) as error:
            raise tensorfile.NotWhole(str(error)) from None
        if found != told:
            raise tensorfile.NotWhole(f"its SHA-256 is {found}, and {told} was written down")
        tensors, metadata = tensorfile.read(path)
        if metadata.get("format") != _FORMAT:
            raise tensorfile.NotWhole(f"it is no {_FORMAT}")
        if metadata.get("made_from") != self._made_from:
            raise tensorfile.NotWhole("it was made from another configuration or other data")
        epoch, step = _place(path.name)
        try:
            values = json.loads(metadata["values"])
        except (KeyError, ValueError) as error:
            raise tensorfile.NotWhole(f"its values cannot be read: {error}") from None
        return Saved(path=path, epoch=epoch, step=step, tensors=tensors, values=values)

    def _remove_oldest(self) -> None:
        """Keep the newest, and nothing half-written: only one runner writes here."""
        for path in self._finished()[: -self._keep]:
            _hash_file(path).unlink(missing_ok=True)
            path.unlink(missing_ok=True)
        for path in self._directory.glob(".partial-*"):
            path.unlink(missing_ok=True)


def _name(epoch: int, step: int) -> str:
    within = f"-step-{step:09d}" if step else ""
    return f"epoch-{epoch:06d}{within}.safetensors"


def _place(name: str) -> tuple[int, int]:
    match = _NAME.fullmatch(name)
    return (int(match["epoch"]), int(match["step"] or 0)) if match else (-1, 0)


def _hash_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(f".partial-{path.name}")
    with partial.open("w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    tensorfile.sync_directory(path.parent)
