"""Every runtime in turn; afterwards nothing of it may be left."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.runtimes import HARNESSES, Harness, Places
from tests.support.waiting import wait_until


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Places]:
    made = Places(tmp_path)
    yield made
    made.release()


@pytest.fixture(
    params=[
        pytest.param(name, marks=pytest.mark.podman if name == "podman" else ())
        for name in sorted(HARNESSES)
    ]
)
def harness(request: pytest.FixtureRequest, places: Places) -> Iterator[Harness]:
    """A runtime; afterwards nothing of it may be left."""
    made = HARNESSES[request.param](places)
    capabilities = made.runtime.capabilities()
    if not capabilities.available:  # an engine that was started, and does not serve
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(capabilities.reason)
    yield made
    made.close()
    places.release()
    assert places.left_behind() == []
    wait_until(lambda: not places.leases_held(), timeout=5, what="leases are free")


@pytest.fixture
def pausing(harness: Harness) -> Harness:
    """A runtime that can pause; the others have a test of their own."""
    if not harness.runtime.capabilities().pause:
        pytest.skip("it cannot pause on this host, and says so")
    return harness
