"""Nodes whose clocks are a day wrong, one each way, beside what Redis's clock says of them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from tasks.cluster import Cluster as View
from tasks.cluster import NodeStatus
from tasks.state import JobState
from tasks.usage import today
from tests.support.cluster import Cluster
from tests.support.waiting import wait_until
from tests.support.wall_clock import WallClock

pytestmark = pytest.mark.e2e

Start = Callable[..., Cluster]
DAY_S = 26 * 3600.0
"""More than a node that is silent is listed for."""


@pytest.fixture
def early(start_cluster: Start, tmp_path: Path) -> Cluster:
    """The cluster as its node-early sees it; node-late serves it too."""
    found = {}
    for name, offset in (("node-early", -DAY_S), ("node-late", DAY_S)):
        clock = WallClock(tmp_path / f"clock-{name}")
        clock.set(offset)
        found[name] = start_cluster(name, env=clock.env)
    return found["node-early"]


def test_liveness_order_and_places_go_by_rediss_clock(early: Cluster) -> None:
    client, keys = early.app.records.client, early.settings.keys
    view = View(client, keys)
    begin = client.time()[0]
    nodes = {one.name: one for one in view.nodes().items}
    assert {one.status for one in nodes.values()} == {NodeStatus.ALIVE}
    assert nodes.keys() == {"node-early", "node-late"}
    starts = {name: float(one.record["started"]) for name, one in nodes.items()}
    assert starts["node-late"] - starts["node-early"] > DAY_S, "their clocks are wrong"
    for name in nodes:  # and a heartbeat changes nothing
        before = client.zscore(keys.nodes, name)
        wait_until(
            lambda name=name, before=before: client.zscore(keys.nodes, name) != before,
            timeout=30,
            what=f"a heartbeat of {name}",
        )
    assert view.capacity().nodes == 2
    assert view.capacity().lost == 0

    # both are busy, and what waits has its place and its age
    held = [early.shell("until [ -e go ]; do sleep 0.05; done") for _ in range(2)]
    for job in held:
        early.wait_state(job, JobState.RUNNING)
    assert {early.record(job).node for job in held} == set(nodes)
    waiting = [early.shell("true", expires=3600) for _ in range(3)]
    for place, job in enumerate(waiting, 1):
        said = view.explain(job.id)
        assert (said.place, said.length, said.servers, said.missing) == (place, 3, 2, "")
        assert said.waits_seconds < 3600
    (queue,) = view.queues().items
    assert (queue.oldest, queue.servers) == (waiting[0].id, 2)
    assert queue.oldest_seconds < 3600

    for job in held:
        work = early.node.directory.parent / early.record(job).node / "state" / "work"
        (scratch,) = [path for path in work.iterdir() if path.name.startswith(job.id)]
        (scratch / "go").touch()
    for job in waiting:
        assert early.wait_state(job).state is JobState.SUCCEEDED, "none has expired"
    end = client.time()[0]
    for job in (*held, *waiting):
        early.wait_state(job)
        stamps = [one.ts for one in early.events(job)]
        assert stamps == sorted(stamps)
        assert begin - 1 <= stamps[0] <= stamps[-1] <= end + 60
    ended = view.jobs(states=(JobState.SUCCEEDED,)).items
    assert len(ended) == 5
    times = [one.finished or 0.0 for one in ended]
    assert times == sorted(times, reverse=True), "what ended last is first, whoever ran it"
    used = list(view.usage(today(client) - timedelta(days=3), today(client)))
    assert used
    assert all(one.slot_seconds < 3600 for one in used)
