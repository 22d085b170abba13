"""Containers that are made at once, by several nodes of one rootless Podman.

Podman's look at subordinate ids is not made for that: it denies that there are any, or dies of it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.integration.engine.jobs import Jobs
from tests.support import engine, podman

pytestmark = [pytest.mark.integration, pytest.mark.podman]

AT_ONCE, ROUNDS = 8, 8


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[Jobs]]:
    made = [Jobs(tmp_path / name, podman.shared(), engine="podman") for name in ("a", "b")]
    yield made
    for one in made:
        one.close()


def test_those_that_are_made_at_once_are_all_made(nodes: list[Jobs]) -> None:
    together = threading.Barrier(AT_ONCE, timeout=60)

    def make(who: int) -> None:
        node = nodes[who % len(nodes)]
        runtime = node.runtime
        plan = node.plan("pass")
        for directory in (plan.checkpoints, plan.output):
            directory.mkdir(parents=True)
        image = runtime.images.present(engine.BASE, "")
        asked = runtime.making.asked(runtime.starting.asked(plan, image))
        try:
            for number in range(ROUNDS):
                together.wait()
                container = runtime.making.create(f"made-at-once-{who}-{number}", asked)
                runtime.manager.remove(container)
        except BaseException:
            together.abort()
            raise

    with ThreadPoolExecutor(AT_ONCE) as pool:
        made = [pool.submit(make, who) for who in range(AT_ONCE)]
    wrong = [str(one.exception()) for one in made if one.exception() is not None]
    assert wrong == []
