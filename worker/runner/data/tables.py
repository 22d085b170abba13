"""Rows of numbers and labels: CSV, NPZ and Parquet."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from worker.runner.data.dataset import Dataset
from worker.runner.errors import JobError

_MOST_CLASSES = 1000


def load_csv(path: Path, options: Mapping[str, Any]) -> Dataset:
    """A CSV file with a header. ``hyperparameters.target``: the target's column, else the last.

    Raises JobError naming the column and the line that is wrong.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise JobError(f"dataset_uri: {path.name} cannot be read as CSV: {error}") from None
    if len(rows) < 2:
        raise JobError(f"dataset_uri: {path.name} has a header and {max(0, len(rows) - 1)} rows")
    header, body = [name.strip() for name in rows[0]], rows[1:]
    if all(_number(name) is not None for name in header):
        raise JobError(
            f"dataset_uri: the first line of {path.name} names the columns, and is all numbers"
        )
    for number, row in enumerate(body, start=2):
        if len(row) != len(header):
            raise JobError(
                f"dataset_uri: line {number} of {path.name} has {len(row)} fields, and the "
                f"header {len(header)}"
            )
    columns = {name: [row[index].strip() for row in body] for index, name in enumerate(header)}
    return from_columns(columns, options, path.name)


def load_npz(path: Path, options: Mapping[str, Any]) -> Dataset:
    """An NPZ file with the arrays ``x`` (samples, …) and ``y`` (samples,). No pickles."""
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError) as error:
        raise JobError(f"dataset_uri: {path.name} cannot be read as NPZ: {error}") from None
    missing = [name for name in ("x", "y") if name not in arrays]
    if missing:
        raise JobError(
            f"dataset_uri: {path.name} has the arrays {', '.join(arrays) or 'none'}; x (samples) "
            "and y (targets) are needed"
        )
    x, y = arrays["x"], arrays["y"]
    if x.ndim < 2 or len(x) != len(y) or x.dtype.kind not in "fiub":
        raise JobError(
            f"dataset_uri: {path.name}: x has shape {x.shape} of {x.dtype}, y {y.shape}; x must be "
            "numbers, (samples, …), and y as long"
        )
    return _with_targets(np.asarray(x, dtype=np.float32), y, options)


def load_parquet(path: Path, options: Mapping[str, Any]) -> Dataset:
    """A Parquet file of flat columns. Needs pyarrow."""
    try:
        import pyarrow.parquet as parquet  # type: ignore[import-untyped,import-not-found,unused-ignore]  # optional
    except ImportError:
        raise JobError(
            "dataset_uri: Parquet needs the package pyarrow where the job runs; install it, or "
            "use CSV or NPZ"
        ) from None
    try:
        table = parquet.read_table(path)
    except (OSError, ValueError) as error:
        raise JobError(f"dataset_uri: {path.name} cannot be read as Parquet: {error}") from None
    columns = {
        name: ["" if one is None else str(one) for one in table.column(name).to_pylist()]
        for name in table.column_names
    }
    return from_columns(columns, options, path.name)


def from_columns(
    columns: Mapping[str, Sequence[str]], options: Mapping[str, Any], name: str
) -> Dataset:
    """Features are all columns but the target's; each must be numbers throughout."""
    import numpy as np

    target = str(options.get("target") or list(columns)[-1])
    if target not in columns:
        raise JobError(
            f"hyperparameters.target: {name} has no column {target!r}; it has {', '.join(columns)}"
        )
    features = []
    for column, texts in columns.items():
        if column == target:
            continue
        numbers = [_number(text) for text in texts]
        for row, value in enumerate(numbers, start=2):
            if value is None:
                raise JobError(
                    f"dataset_uri: column {column!r} of {name}, line {row}: "
                    f"{texts[row - 2]!r} is no finite number"
                )
        features.append(numbers)
    if not features:
        raise JobError(f"dataset_uri: {name} has no column beside the target {target!r}")
    texts = np.asarray(columns[target])
    return _with_targets(np.asarray(features, dtype=np.float32).T, texts, options)


def _with_targets(features: Any, found: Any, options: Mapping[str, Any]) -> Dataset:
    """Labels or numbers: as ``hyperparameters.task`` says; else whole numbers and words are
    labels where there are few, and all other numbers are numbers."""
    import numpy as np

    task = options.get("task")
    if task not in (None, "classification", "regression"):
        raise JobError(f"hyperparameters.task is {task!r}; classification or regression is meant")
    numbers = _numbers(found)
    if numbers is None or (task is None and _look_like_labels(numbers)) or task == "classification":
        if task == "regression":
            raise JobError("hyperparameters.task is regression, and the targets are no numbers")
        labels, indexes = np.unique(found if numbers is None else numbers, return_inverse=True)
        if len(labels) < 2:
            raise JobError("dataset_uri: all targets are the same: there is nothing to learn")
        if len(labels) > _MOST_CLASSES:
            raise JobError(f"dataset_uri: {len(labels)} classes; at most {_MOST_CLASSES}")
        return Dataset(
            features=features, targets=indexes.reshape(-1), classes=tuple(map(_plain, labels))
        )
    return Dataset(features=features, targets=np.asarray(numbers, dtype=np.float32))


def _numbers(found: Any) -> Any:
    import numpy as np

    if found.dtype.kind in "fiub":
        values = np.asarray(found, dtype=np.float64)
    else:
        parsed = [_number(text) for text in found.tolist()]
        if any(one is None for one in parsed):
            return None
        values = np.asarray(parsed, dtype=np.float64)
    if not np.isfinite(values).all():
        raise JobError("dataset_uri: a target is NaN or infinite")
    return values


def _look_like_labels(numbers: Any) -> bool:
    import numpy as np

    whole = bool((numbers == np.round(numbers)).all())
    kinds = len(np.unique(numbers))
    return numbers.ndim == 1 and whole and kinds <= max(2, min(100, len(numbers) // 10))


def _plain(label: Any) -> str | int | float:
    if isinstance(label, str):
        return str(label)
    number = float(label)
    return int(number) if number.is_integer() else number


def _number(text: Any) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None
