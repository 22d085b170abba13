"""A native runtime on a node of one test's own; what is left of its attempts is settled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.runtimes import Places
from worker.keeper.settle import settle
from worker.runtimes.native import NativeRuntime


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Places]:
    made = Places(tmp_path)
    yield made
    made.release()
    for directory in (tmp_path / "state" / "attempts").glob("*"):
        settle(directory)


@pytest.fixture
def runtime(places: Places) -> Iterator[NativeRuntime]:
    made = NativeRuntime(state_root=places.state, abandon_after=30)
    yield made
    for handle in made.recover():
        handle.remove()
    made.close()
