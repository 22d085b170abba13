"""What tests of the hub share: a view of it, nodes that are only entries there, a real node."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from tasks.cluster import Cluster
from tasks.record import Records
from tests.conftest import _SERVER, Hub
from tests.integration.hub.support import Enter
from tests.support.fleet import PaperNode, node
from tests.support.live_node import LiveNode
from tests.support.redis_server import MISSING, redis_binary


@pytest.fixture
def records(hub: Hub) -> Records:
    return hub.records


@pytest.fixture
def cluster(hub: Hub) -> Cluster:
    return Cluster(hub.client, hub.keys)


@pytest.fixture
def enter(hub: Hub) -> Enter:
    def enter(name: str, *offers: Any, **how: Any) -> PaperNode:
        return node(hub.client, hub.keys, name, *offers, **how)

    return enter


@pytest.fixture(scope="module")
def node_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """The hub of a whole module, with a node of two slots: emptied once, before the node starts."""
    from tasks.settings import Settings

    if redis_binary() is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(MISSING)
    server = _SERVER.heal()
    client = server.client()
    node = LiveNode(directory=tmp_path_factory.mktemp("node"), redis_url=server.url, slots=2)
    try:
        node.start()
        yield Hub(server, Settings(redis_url=server.url), client)
    finally:
        node.close()
        client.close()
