"""What tests of the hub share: a view of it, nodes that are only entries there, a real node."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from tasks.cluster import Cluster
from tasks.record import Records
from tests.conftest import _SERVER, Hub
from tests.integration.hub.support import REAPER_TTL_MS, Enter, MakeReaper
from tests.support.fleet import PaperNode, node
from tests.support.live_node import LiveNode
from tests.support.redis_server import MISSING, redis_binary
from worker.node.reaper import Reaper


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


@pytest.fixture
def make_reaper(hub: Hub) -> Iterator[MakeReaper]:
    """Makes reapers that have seen Redis for long, so that they hold nothing."""
    made: list[Reaper] = []

    def reaper(
        holder: str = "a", *, settled: bool = True, timeout: float = 5.0, **more: Any
    ) -> Reaper:
        given = {"tell": lambda _: None, "lost_after": 0.0, "period": 0.05, **more}
        settings = hub.other(lease_ttl_ms=REAPER_TTL_MS).settings
        records = Records(settings.connect(timeout=timeout), settings.keys)
        found = Reaper(records, settings, holder=holder, **given)
        made.append(found)
        if settled:
            found.once(0.0)
        return found

    yield reaper
    for one in made:
        one.stop()
        one._records.client.close()
