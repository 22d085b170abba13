"""A bare node: what a probe needs comes after the node has started."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import docker
import pytest

from tests.support import engine
from tests.support.contained import Contained
from tests.support.waiting import wait_until
from worker.node import slot_records

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


def test_a_node_reads_its_queues_once_there_is_an_image_to_probe_with(
    start_contained: Callable[..., Contained], raw: docker.APIClient
) -> None:
    node = start_contained(extra={"images": {"allow": ["late/*"]}}, slots=1)
    paths = node.node.paths
    assert len(slot_records.queues(paths, "cpu0")) == 2, "nothing can be attested yet"
    job: Any = node.cluster.command("print(1)", image="late/base:1")
    raw.tag(engine.BASE, "late/base", "1")
    try:
        assert job.get(timeout=180)["mode"] == "docker"
        wait_until(lambda: len(slot_records.queues(paths, "cpu0")) > 2, what="its classes are read")
        node.wait_clean()
    finally:
        raw.remove_image("late/base:1")
