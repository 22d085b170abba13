"""Which reader a job's data need."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from worker.runner.data import builtin, csvfile, images, npzfile, parquet
from worker.runner.data.columns import Wanted
from worker.runner.data.raw import Raw
from worker.runner.faults import JobFault
from worker.runner.jobspec import shown
from worker.runner.options import Options

_TABLES: Final[dict[str, Callable[[Path, Wanted], Raw]]] = {
    ".csv": csvfile.load_csv,
    ".tsv": csvfile.load_csv,
    ".parquet": parquet.load_parquet,
    ".pq": parquet.load_parquet,
}
_KNOWN: Final = (*_TABLES, ".npz")


def load(uri: str, data: Path | None, options: Options) -> Raw:
    """A job's data. ``data``: where the node has put them. Raises JobFault, EnvironmentLacks."""
    if uri.startswith("builtin:"):
        return builtin.load(uri.removeprefix("builtin:").partition("#")[0])
    if data is None:
        raise JobFault(
            f"dataset_uri: the data of {shown(uri)} are not here: neither CYXWIZ_DATA nor /job/data"
        )
    if not data.exists():
        raise JobFault(f"dataset_uri: {data} is not there")
    path = _file(data, options.data_file)
    if path is None:
        return images.load_images(data, size=options.image_size, color=options.image_color)
    if path.suffix.lower() == ".npz":
        return npzfile.load_npz(path)
    return _TABLES[path.suffix.lower()](
        path, Wanted(target=options.target, features=options.features)
    )


def _file(data: Path, named: str | None) -> Path | None:
    """The one file that holds the data; None: they are a folder of images."""
    if data.is_file():
        if named is not None and data.name != named:
            raise JobFault(f"hyperparameters: data_file {named!r}: the data are {data.name}")
        return _known(data)
    if named is not None:
        path = data / named
        if not path.resolve().is_relative_to(data.resolve()) or not path.is_file():
            raise JobFault(f"hyperparameters: data_file {named!r} is no file of the data")
        return _known(path)
    entries = [one for one in sorted(data.iterdir()) if not one.name.startswith(".")]
    files = [one for one in entries if one.is_file() and one.suffix.lower() in _KNOWN]
    if len(files) > 1:
        raise JobFault(
            "the data have several files: "
            + ", ".join(one.name for one in files[:10])
            + "; name one with hyperparameters.data_file"
        )
    if files:
        return files[0]
    if any(one.is_dir() for one in entries):
        return None
    raise JobFault(
        f"the data have neither a file of a known kind ({', '.join(_KNOWN)}) nor folders of "
        f"images; they have {', '.join(one.name for one in entries[:10]) or 'nothing'}"
    )


def _known(path: Path) -> Path:
    if path.suffix.lower() not in _KNOWN:
        raise JobFault(
            f"{path.name}: of an unknown kind; {', '.join(_KNOWN)} or a folder of images is needed"
        )
    return path
