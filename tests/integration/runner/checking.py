"""What checks share that run in a Python without pytest: see `torch_checks`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Check = Callable[[Path], None]
"""Takes a directory of its own, and raises what is wrong."""


@contextmanager
def refused(kind: type[Exception], text: str) -> Iterator[None]:
    """What is done inside must be refused so."""
    try:
        yield
    except kind as error:
        if text not in str(error):
            raise
    else:
        raise AssertionError(f"no {kind.__name__}: {text}")
