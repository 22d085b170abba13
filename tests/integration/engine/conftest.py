"""Jobs on a real engine, and proof that nothing of them is left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.integration.engine.jobs import Jobs, clean_jobs
from tests.support import engine


@pytest.fixture
def socket() -> Path:
    """The socket of the tests' engine."""
    return engine.shared()


@pytest.fixture
def raw(socket: Path) -> Iterator[docker.APIClient]:
    """docker-py itself: what the engine says without any code of ours."""
    client = engine.raw(socket)
    yield client
    client.close()


@pytest.fixture
def jobs(socket: Path, tmp_path: Path) -> Iterator[Jobs]:
    """Starts jobs; afterwards nothing of them may be left."""
    with clean_jobs(tmp_path, "docker") as made:
        yield made


@pytest.fixture(params=["docker", "gvisor", pytest.param("podman", marks=pytest.mark.podman)])
def jobs_of_each_engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Jobs]:
    """Starts jobs; afterwards nothing of them may be left. ``gvisor``: in Docker."""
    with clean_jobs(tmp_path, request.param) as made:
        yield made
