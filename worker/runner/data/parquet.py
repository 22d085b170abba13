"""Parquet files, with pyarrow where it is installed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worker.runner.data.columns import Wanted, choose
from worker.runner.data.raw import Raw
from worker.runner.faults import JobFault
from worker.runner.lazy import Array, need, np


def load_parquet(path: Path, wanted: Wanted) -> Raw:
    """A Parquet file. Raises JobFault, EnvironmentLacks."""
    why = f"the Parquet file {path.name}"
    parquet = need("pyarrow.parquet", package="pyarrow", why=why)
    arrow = need("pyarrow", why=why)
    try:
        schema = parquet.read_schema(path)
        header = list(schema.names)
        chosen, at = choose(path.name, header, wanted, _rows(schema.metadata or {}))
        table = parquet.read_table(path, columns=[header[one] for one in (*chosen, at)])
    except arrow.ArrowException as error:
        raise JobFault(f"{path.name}: is no Parquet file that can be read: {error}") from None
    if not table.num_rows:
        raise JobFault(f"{path.name}: has no rows")
    short = (arrow.float16(), arrow.float32())
    short_all = all(schema.field(column).type in short for column in chosen)
    x = np.empty((table.num_rows, len(chosen)), dtype=np.float32 if short_all else np.float64)
    for index, column in enumerate(chosen):
        x[:, index] = _numbers(path.name, header[column], table, arrow)
    return Raw(
        x=x,
        y=(y := _target(path.name, header[at], table, arrow)),
        suggested="classification" if y.dtype.kind == "U" else None,
        features=tuple(header[one] for one in chosen),
        target=header[at],
    )


def _rows(metadata: Mapping[bytes, bytes]) -> frozenset[str]:
    """The columns in which pandas has saved the names or numbers of the rows."""
    try:
        told = list(json.loads(metadata[b"pandas"])["index_columns"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return frozenset()
    # an object describes numbers that are in no column
    return frozenset(one for one in told if isinstance(one, str))


def _target(name: str, title: str, table: Any, arrow: Any) -> Array:
    column, types = table.column(title), arrow.types
    texts = (types.is_dictionary, types.is_string, types.is_large_string)
    if any(is_text(column.type) for is_text in texts):
        if column.null_count:
            raise JobFault(f"{name}: the target {title} has {column.null_count} empty cells")
        return np.array([str(one) for one in column.to_pylist()])
    found = _numbers(name, title, table, arrow)
    if types.is_integer(column.type):
        return np.asarray(column.to_numpy())  # large ones are no float64
    return found.astype(np.int64) if types.is_boolean(column.type) else found


def _numbers(name: str, title: str, table: Any, arrow: Any) -> Array:
    column, types = table.column(title), arrow.types
    numeric = (types.is_integer, types.is_floating, types.is_boolean)
    if not any(is_number(column.type) for is_number in numeric):
        raise JobFault(
            f"{name}, column {title}: is {column.type}, no numbers; encode it beforehand, or "
            "leave the column out with hyperparameters.features"
        )
    if column.null_count:
        raise JobFault(f"{name}, column {title}: has {column.null_count} empty cells; fill them")
    found = np.asarray(column.to_numpy(), dtype=np.float64)
    if not np.isfinite(found).all():
        raise JobFault(f"{name}, column {title}: has values that are not finite")
    return found
