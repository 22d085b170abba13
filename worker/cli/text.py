"""What is printed: made safe for a terminal, and formatted the same everywhere.

A job's output, its error and its model's path are the job's own words. Whoever follows a job must
not have their terminal driven by it, so control characters are shown, never sent.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any

import click


def safe(text: str) -> str:
    """``text`` in one line, every character of it visible: ESC is shown as ``\\x1b``."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\t" else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    number = ord(char)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


def on_terminal(stream: IO[str] | None = None) -> bool:
    """Whether a live display makes sense there."""
    stream = sys.stdout if stream is None else stream
    return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")


def say(line: str) -> None:
    """A line for people on stdout, flushed: a reader of the pipe sees it at once."""
    click.echo(line)


def note(line: str) -> None:
    """A line for people on stderr."""
    click.echo(line, err=True)


def say_json(value: Mapping[str, Any]) -> None:
    """One JSON object in one line on stdout."""
    click.echo(json.dumps(value, separators=(", ", ": "), default=str))


def number(value: float) -> str:
    """Four significant digits."""
    return f"{value:.4g}"


def duration(seconds: float) -> str:
    """``850 ms``, ``3.2 s``, ``4 min 05 s``, ``2 h 07 min``."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def moment(seconds: float) -> str:
    """Local time, ``2026-03-01 14:05:09``; ``-`` for what has not happened."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) if seconds else "-"


def columns(rows: Iterable[tuple[str, str]]) -> str:
    """Names and values, the values below each other."""
    listed = list(rows)
    width = max((len(name) for name, _ in listed), default=0)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in listed)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of equally many cells, the first one the heading; the last cell may be long."""
    last = len(rows[0]) - 1
    widths = [max(len(row[column]) for row in rows) for column in range(last)]
    lines = []
    for row in rows:
        cells = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)]
        lines.append("  ".join([*cells, row[-1][:120]]).rstrip())
    return "\n".join(lines)
