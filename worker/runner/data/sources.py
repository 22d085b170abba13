"""Finds a job's data: by its ``dataset_uri``, and by what the node mounted for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from worker.runner.data import builtin, images, tables
from worker.runner.data.dataset import Dataset
from worker.runner.errors import JobError
from worker.runner.settings import Job

_READERS: dict[str, Callable[[Path, Mapping[str, Any]], Dataset]] = {
    ".csv": tables.load_csv,
    ".npz": tables.load_npz,
    ".parquet": tables.load_parquet,
}


def load(job: Job) -> Dataset:
    """The job's data. Raises JobError."""
    scheme, _, rest = job.dataset_uri.partition(":")
    if scheme == "builtin":
        return builtin.load(rest)
    if not job.dataset_uri:
        raise JobError("dataset_uri: a model_definition needs data, such as builtin:digits")
    if job.data is None:
        raise JobError(f"dataset_uri: {job.dataset_uri} was not given to the job")
    return read(job.data, job.hyperparameters)


def read(place: Path, options: Mapping[str, Any]) -> Dataset:
    """The data in a file, a directory with one such file, or a folder of images by class."""
    if place.is_file():
        reader = _READERS.get(place.suffix.lower())
        if reader is None:
            raise JobError(f"dataset_uri: {place.name} ends in none of {', '.join(_READERS)}")
        return reader(place, options)
    if not place.is_dir():
        raise JobError(f"dataset_uri: there is nothing at {place.name}")
    files = sorted(one for one in place.iterdir() if one.suffix.lower() in _READERS)
    if len(files) == 1:
        return read(files[0], options)
    if files:
        raise JobError(
            f"dataset_uri: {len(files)} data files are in the directory "
            f"({', '.join(one.name for one in files[:5])}); name one"
        )
    return images.load(place, options)
