"""Places for the runs of a job; see `runs` and `warm`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.runner.runs import Place, torch_python
from tests.integration.runner.warm import Warm

Warmed = Callable[[str], Warm]


@pytest.fixture(scope="session")
def warmed() -> Iterator[Warmed]:
    """A process with the libraries of a Python loaded; one for each."""
    made: dict[str, Warm] = {}

    def get(python: str) -> Warm:
        if python not in made:
            made[python] = Warm(python)
        return made[python]

    yield get
    for one in made.values():
        one.close()


@pytest.fixture
def place(tmp_path: Path, warmed: Warmed) -> Iterator[Place]:
    """For a job that scikit-learn trains."""
    made = Place(tmp_path / "job", warm=warmed(sys.executable))
    yield made
    made.end()


@pytest.fixture
def cold_place(tmp_path: Path) -> Iterator[Place]:
    """The same; each run starts as on a node."""
    made = Place(tmp_path / "job")
    yield made
    made.end()


@pytest.fixture
def torch_place(tmp_path: Path, warmed: Warmed) -> Iterator[Place]:
    """For a job that PyTorch trains."""
    made = Place(tmp_path / "torch-job", warm=warmed(torch_python()))
    yield made
    made.end()
