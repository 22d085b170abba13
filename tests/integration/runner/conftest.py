"""A place for a job's runs; see `runs`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.runner.runs import Place, torch_python


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """For a job that scikit-learn trains."""
    made = Place(tmp_path / "job")
    yield made
    made.end()


@pytest.fixture
def torch_place(tmp_path: Path) -> Iterator[Place]:
    """For a job that PyTorch trains."""
    made = Place(tmp_path / "torch-job", torch_python())
    yield made
    made.end()
