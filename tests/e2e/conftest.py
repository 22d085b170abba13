"""One Redis and one node for each module of end-to-end tests; every test finds them clean."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import Cluster, started
from tests.support.live_node import LiveNode
from tests.support.redis_server import RedisServer


@pytest.fixture(scope="module")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A node with two slots."""
    with RedisServer() as server:
        node = LiveNode(directory=tmp_path_factory.mktemp("node"), redis_url=server.url, slots=2)
        with started(node) as cluster:
            yield cluster


@pytest.fixture
def cluster(shared_cluster: Cluster) -> Iterator[Cluster]:
    """The module's cluster; a test that leaves anything on the node fails."""
    yield shared_cluster
    shared_cluster.wait_clean()


@pytest.fixture
def data(shared_cluster: Cluster) -> Path:
    """A root that the node allows `file:` URLs beneath."""
    return shared_cluster.node.directory / "data"


@pytest.fixture(scope="module")
def module_server() -> Iterator[RedisServer]:
    """A Redis of one module's own, for a node that its tests share."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A Redis of one test's own, to be killed or frozen."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def start_cluster(server: RedisServer, tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Starts nodes of one test's own; whatever is left of them ends with it."""
    nodes: list[LiveNode] = []
    clusters: list[Cluster] = []

    def start(name: str = "node-a", **options: Any) -> Cluster:
        directory = tmp_path / name
        directory.mkdir()
        nodes.append(LiveNode(directory=directory, redis_url=server.url, name=name, **options))
        clusters.append(Cluster.of(nodes[-1].start()))
        return clusters[-1]

    yield start
    for cluster in clusters:
        cluster.close()
    with ThreadPoolExecutor() as pool:  # each takes a while
        list(pool.map(LiveNode.close, nodes))
