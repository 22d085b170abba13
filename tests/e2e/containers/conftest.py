"""A node that runs jobs in containers of the tests' engine; every test finds it clean."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.support import engine
from tests.support.contained import Contained
from tests.support.redis_server import RedisServer


@pytest.fixture(scope="module")
def image() -> str:
    """The cpu executor image."""
    return engine.executor()


@pytest.fixture(scope="module")
def shared_contained(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Contained]:
    with RedisServer() as server:
        directory = tmp_path_factory.mktemp("node")
        made = Contained.start(directory, server.url, engine.shared(), slots=2)
        try:
            yield made
        finally:
            made.close()


@pytest.fixture
def contained(shared_contained: Contained) -> Iterator[Contained]:
    """The module's node; a test that leaves anything on it or in the engine fails."""
    yield shared_contained
    shared_contained.wait_clean()


@pytest.fixture
def raw() -> Iterator[docker.APIClient]:
    """docker-py itself: what the engine says without any code of ours."""
    client = engine.raw(engine.shared())
    yield client
    client.close()


@pytest.fixture
def start_contained(
    image: str, server: RedisServer, tmp_path: Path
) -> Iterator[Callable[..., Contained]]:
    """Starts nodes of one test's own."""
    started: list[Contained] = []

    def start(name: str = "node-a", **options: Any) -> Contained:
        directory = tmp_path / name
        directory.mkdir()
        socket = options.pop("socket", None) or engine.shared()
        started.append(Contained.start(directory, server.url, socket, name=name, **options))
        return started[-1]

    yield start
    server.thaw()
    server.start()
    for one in started:
        one.close()
