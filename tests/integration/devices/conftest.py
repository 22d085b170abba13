"""A stood-in host with GPUs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.devices.node import Node
from tests.support.gpus import stand_in
from tests.support.gpus.stand_in import Host


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """Eight idle GPUs, for this process too."""
    made = Host(tmp_path / "gpus").write()
    stand_in.load()
    os.environ[stand_in.STATE] = str(made.path)
    yield made
    del os.environ[stand_in.STATE]


@pytest.fixture
def node(host: Host, tmp_path: Path) -> Iterator[Node]:
    """A node on it."""
    made = Node(tmp_path / "node")
    yield made
    made.close()
