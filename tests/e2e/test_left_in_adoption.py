"""A node that is stopped again before it has gone on with the jobs of its last stop.

The successor is one in the test's own process: the stop comes exactly between two of its steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.executor import Delivery, Dropped
from tasks.leases import Leases
from tasks.record import Records
from tasks.routing import slot_queue
from tasks.settings import Settings
from tests.support.cluster import Cluster
from tests.support.live_node import LiveNode
from tests.support.waiting import wait_until
from tests.support.watched import Watched
from worker.config import load
from worker.crew import StandingCrew
from worker.devices.configured import rules
from worker.devices.inventory import StaticInventory
from worker.devices.pool import DevicePool
from worker.engines import Engines
from worker.heirs import Heirs
from worker.keeper import procfs
from worker.node.audit import Audit
from worker.node.host_size import host_size
from worker.orders import Orders
from worker.parts import NodeParts, Place
from worker.run import Run
from worker.runtimes import native_runtime
from worker.supervisor import Supervisor
from worker.trust.keyring import Keyring
from worker.trust.secrets import Secrets

pytestmark = pytest.mark.e2e

Start = Callable[..., Cluster]
TTL_S = 2.0
AWAY_S = 300.0


class Successor:
    """What a new child of the slot's worker is made of."""

    def __init__(self, node: LiveNode) -> None:
        config = load(node.write_config(), {})
        settings = Settings(redis_url=node.redis_url, lease_ttl_ms=round(TTL_S * 1000))
        self._orders, self._crew = Orders(settings, node.name), StandingCrew(2)
        self._native = native_runtime(state_root=node.paths.state_dir, abandon_after=TTL_S + 1)
        self._engines = Engines(config, abandon_after=TTL_S + 1)
        inventory = StaticInventory()
        leases, attempts = node.paths.leases, node.paths.attempts
        parts = NodeParts(
            records=Records(settings.connect(), settings.keys),
            settings=settings,
            config=config,
            paths=node.paths,
            pool=DevicePool(
                leases=leases, attempts=attempts, inventory=inventory, rules=rules(config)
            ),
            inventory=inventory,
            native=self._native,
            engines=self._engines,
            keyring=Keyring(config.trust.keys),
            secrets=Secrets(config.trust.secrets),
            audit=Audit(node.paths.audit, node=node.name, slot="cpu0"),
            orders=self._orders,
            crew=self._crew,
            place=Place(node=node.name, slot="cpu0", host=host_size()),
            signer=None,
        )
        self.heirs = Heirs(parts, lambda _: None)
        self.heirs.find()
        self.supervisor = Supervisor(parts, self.heirs, lambda: AWAY_S)

    def close(self) -> None:
        self._orders.close()
        self._crew.close()
        self._native.close()
        self._engines.close()


class Left:
    """A job that runs on while its node is away."""

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        self.cluster = cluster
        self.watched = Watched(cluster, directory)
        (self._pid,) = cluster.node.job_pids()
        assert cluster.node.leave() == 0
        self.successor = Successor(cluster.node)

    def check_it_goes_on(self) -> None:
        """Past the time that a supervisor has, and then with the node."""
        client = self.cluster.app.records.client
        began = client.time()[0]
        until = client.zscore(self.cluster.settings.keys.leases, self.watched.job.id)
        assert until is not None
        assert float(until) / 1000 - began > AWAY_S * 1.05, (
            "it has ended before another may take it"
        )
        wait_until(
            lambda: client.time()[0] > began + TTL_S + 1, timeout=20, what="its lease's time"
        )
        entry = procfs.process(self._pid)
        assert entry is not None
        assert not entry.stopped, "its keeper knows for how long"
        self.cluster.node.start()
        self.cluster.wait_adopted(self.watched.job)
        assert self.watched.go()["attempt"] == 1
        assert self.watched.runs == "began ended "
        self.cluster.wait_clean()


@pytest.fixture
def left(start_cluster: Start, tmp_path: Path) -> Iterator[Left]:
    left = Left(start_cluster(lease_ttl=TTL_S, lease_grace=1.0), tmp_path)
    yield left
    left.successor.close()


def test_its_message_has_not_come_yet(left: Left) -> None:
    before = left.cluster.owner(left.watched.job)
    left.successor.heirs.start()
    wait_until(lambda: left.cluster.owner(left.watched.job) != before, what="it is taken over")
    left.successor.heirs.close(AWAY_S)
    left.check_it_goes_on()


@pytest.mark.parametrize("moment", [(Leases, "claim"), (Run, "to_its_end")], ids=["claim", "watch"])
def test_it_is_just_about_to_be_gone_on_with(
    left: Left, monkeypatch: pytest.MonkeyPatch, moment: tuple[type, str]
) -> None:
    owner, name = moment
    step = getattr(owner, name)

    def stopped(*given: Any, **more: Any) -> Any:
        left.successor.supervisor.shutdown()
        return step(*given, **more)

    monkeypatch.setattr(owner, name, stopped)
    delivery = Delivery(
        job_id=left.watched.job.id,
        config={},
        delivery_tag="",
        hostname="cpu0@node-a",
        queue=slot_queue("node-a", "cpu0"),
        started=lambda: None,
        progress=lambda _: None,
    )
    verdict = left.successor.supervisor.execute(delivery)
    assert isinstance(verdict, Dropped)
    assert "goes on" in verdict.why
    left.check_it_goes_on()
