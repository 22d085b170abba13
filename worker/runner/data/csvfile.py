"""CSV files, read line by line, so that an error can name the line."""

from __future__ import annotations

import csv
import math
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from worker.runner.data.columns import Wanted, choose
from worker.runner.data.raw import Raw
from worker.runner.faults import JobFault
from worker.runner.lazy import Array, np


def load_csv(path: Path, wanted: Wanted) -> Raw:
    """A CSV file with a header line, and a comma, semicolon or tab between its fields.

    Raises JobFault, which names the column and the line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return _read(file, path.name, wanted)
    except (UnicodeDecodeError, csv.Error) as error:
        raise JobFault(f"{path.name}: is no CSV in UTF-8: {error}") from None


def _read(file: IO[str], name: str, wanted: Wanted) -> Raw:
    first = file.readline()
    delimiter = max(",;\t", key=first.count)
    header = [one.strip() for one in next(csv.reader([first], delimiter=delimiter), [])]
    chosen, at = choose(name, header, wanted)
    numbers = array("d")  # row after row, so that a table of it takes no copy
    texts: list[str] = []
    for line, row in _rows(file, delimiter):
        if len(row) != len(header):
            raise JobFault(
                f"{name}, line {line}: {len(row)} fields, and the header has {len(header)}"
            )
        numbers.extend(_number(name, line, header[column], row[column]) for column in chosen)
        value = row[at].strip()
        if not value:
            raise JobFault(f"{name}, line {line}: the target {header[at]} is empty")
        texts.append(value)
    if not texts:
        raise JobFault(f"{name}: has no line below its header")
    y = _target(texts)
    return Raw(
        x=np.frombuffer(numbers, dtype=np.float64).reshape(len(texts), len(chosen)),
        y=y,
        suggested="classification" if y.dtype.kind == "U" else None,
        features=tuple(header[column] for column in chosen),
        target=header[at],
    )


def _rows(file: IO[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    for row in reader:
        if row:
            yield reader.line_num + 1, row


def _number(name: str, line: int, column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or abs(value) > 3e38:  # more is no float32
        what = f"{text.strip()[:40]!r} is no usable number" if text.strip() else "is empty"
        raise JobFault(
            f"{name}, line {line}, column {column}: {what}; fill or encode it beforehand, or "
            "leave the column out with hyperparameters.features"
        )
    return value


def _target(texts: Sequence[str]) -> Array:
    """Whole numbers, numbers or else texts."""
    for kind in (np.int64, np.float64):
        try:
            found = np.array(texts).astype(kind)
        except (ValueError, OverflowError):
            continue
        if np.isfinite(found).all():
            return found
    return np.array(texts)
