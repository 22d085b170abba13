"""A node that runs jobs, on the Redis that `tasks.app` and `train` use."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.conftest import _SERVER, Hub
from tests.support.live_node import LiveNode
from tests.support.redis_server import MISSING, redis_binary


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
