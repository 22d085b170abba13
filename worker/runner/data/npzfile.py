"""NPZ archives of numpy arrays. Pickles in them are never loaded."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any, Final

from worker.runner.data.raw import Raw
from worker.runner.faults import JobFault
from worker.runner.lazy import Array, np

_WHOLE: Final = (("x", "y"), ("data", "target"), ("images", "labels"))
_SPLIT: Final = (
    ("x_train", "y_train", "x_val", "y_val"),
    ("x_train", "y_train", "x_test", "y_test"),
)
_RIGHT: Final = "x and y, or x_train, y_train, x_val (or x_test) and y_val (or y_test), are needed"


def load_npz(path: Path) -> Raw:
    """The arrays x and y, or those of a split. Raises JobFault."""
    try:
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise JobFault(f"{path.name}: is one array, no archive; {_RIGHT}")
        with archive:
            return _read(archive, path.name)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise JobFault(f"{path.name}: is no NPZ archive of plain arrays: {error}") from None


def _read(archive: Any, name: str) -> Raw:
    names = {one.lower(): one for one in archive.files}
    for one in _SPLIT:
        if all(part in names for part in one):
            x, y, held_x, held_y = (archive[names[part]] for part in one)
            _check(x, y, name, one[:2])
            _check(held_x, held_y, name, one[2:])
            if x.shape[1:] != held_x.shape[1:] or y.shape[1:] != held_y.shape[1:]:
                raise JobFault(f"{name}: {one[0]} and {one[2]} have samples of different shapes")
            held = np.arange(len(x) + len(held_x)) >= len(x)
            return _raw(np.concatenate([x, held_x]), np.concatenate([y, held_y]), held)
    for pair in _WHOLE:
        if all(part in names for part in pair):
            x, y = (archive[names[part]] for part in pair)
            _check(x, y, name, pair)
            return _raw(x, y, None)
    raise JobFault(f"{name}: has {', '.join(archive.files) or 'no arrays'}; {_RIGHT}")


def _check(x: Array, y: Array, name: str, names: tuple[str, ...]) -> None:
    if x.ndim < 2 or x.dtype.kind not in "biuf" or not len(x):
        raise JobFault(
            f"{name}: {names[0]} is {x.dtype} of shape {x.shape}; numbers of shape "
            "(samples, …) are needed"
        )
    if y.ndim not in (1, 2) or y.dtype.kind not in "biufU":
        raise JobFault(
            f"{name}: {names[1]} is {y.dtype} of shape {y.shape}; numbers or texts of shape "
            "(samples,) or (samples, targets) are needed"
        )
    if len(x) != len(y):
        raise JobFault(f"{name}: {names[0]} has {len(x)} samples, and {names[1]} {len(y)}")
    for one, array in zip(names, (x, y), strict=False):
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise JobFault(f"{name}: {one} has values that are not finite")


def _raw(x: Array, y: Array, held: Array | None) -> Raw:
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    suggested = "classification" if y.dtype.kind in "Ub" else None  # whole numbers: either
    if y.dtype.kind == "f" or y.ndim == 2:
        suggested = "regression"
    if y.dtype.kind == "b":
        y = y.astype(np.int64)
    return Raw(x=x, y=y, suggested=suggested, held_out=held, target="y")
