"""Who starts a container is killed while it is being started: none is left, and the job runs."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.containers.traced import Traced
from tests.support import engine
from tests.support.contained import Contained
from tests.support.engine_proxy import EngineProxy
from tests.support.nodes import gone
from tests.support.waiting import wait_until
from worker.devices.leases import held as leases_held

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.fixture
def proxy() -> Iterator[EngineProxy]:
    with EngineProxy(engine.shared()) as made:
        yield made


@pytest.mark.parametrize("answered", [False, True], ids=["asked", "answered"])
@pytest.mark.parametrize("who", ["worker", "keeper"])
def test_killed_between_the_creation_of_a_container_and_the_look_at_it(
    start_contained: Callable[..., Contained], proxy: EngineProxy, who: str, answered: bool
) -> None:
    """``answered``: the engine has started it, and nobody has heard of that."""
    node = start_contained(socket=proxy.socket, lease_ttl=3.0, lease_grace=1.0)
    held = proxy.holds(r"POST .*/containers/[0-9a-f]+/start$", answered=answered)
    traced = Traced(node, begins=False)
    held.wait()
    [made] = node.containers()
    assert made["State"] == ("running" if answered else "created")
    worker = node.node.worker()
    assert worker is not None
    killed = [held.pid] if who == "keeper" else [node.node.pool_child(), worker]
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: all(map(gone, killed)), what="it is dead")
    held.go()
    now = node.container(traced.job, but=made["Id"])["Id"]
    assert [one["Id"] for one in node.containers()] == [now]
    runs = traced.go()
    assert "TWICE" not in runs
    assert runs.endswith("began ended ")
    assert runs.count("began") <= (1 if who == "keeper" and not answered else 2)
    node.wait_clean()
    leases = list(node.node.paths.leases.iterdir())
    assert leases
    wait_until(lambda: not any(map(leases_held, leases)), what="no lease is held")
