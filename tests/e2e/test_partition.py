"""A node whose network is gone: no connection is refused, none ends, and nothing comes through."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.cluster import Cluster
from tests.support.live_node import LiveNode
from tests.support.network import network
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until
from tests.support.watched import Watched

pytestmark = pytest.mark.e2e

TIMING: Final[dict[str, Any]] = {"lease_ttl": 2.0, "lease_grace": 1.0}


def test_the_job_stands_still_on_the_far_side_and_runs_on_this_one(tmp_path: Path) -> None:
    with network() as cable:
        reachable = {"bind": f"127.0.0.1 {cable.host}", "protected-mode": "no"}
        with RedisServer(tcp=True, more=reachable) as server:
            far_url = server.tcp_url.replace("127.0.0.1", cable.host)
            far, near = (
                LiveNode(directory=tmp_path / name, redis_url=url, name=name, within=run, **TIMING)
                for name, url, run in (
                    ("node-far", far_url, cable.within),
                    ("node-near", server.url, ()),
                )
            )
            for node in (far, near):
                node.directory.mkdir()
            try:
                there = Cluster.of(far.start())
                watched = Watched(there, tmp_path)
                [pid] = far.job_pids()
                here = Cluster.of(near.start())
                cable.cut()
                wait_until(
                    lambda: far.stopped(pid) or not far.job_pids(),
                    timeout=30,
                    what="the job to stand still",
                )
                wait_until(lambda: watched.runs.count("began") == 2, timeout=60, what="it to run")
                cable.mend()
                wait_until(lambda: not far.job_pids(), timeout=60, what="the old attempt to end")
                assert watched.go()["node"] == "node-near"
                assert watched.runs.count("ended") == 1
                assert here.shell("true").get(timeout=60)["attempt"] == 1
                here.wait_clean()
                there.wait_clean(timeout=60)
                assert [one.seq for one in here.events(watched.job)] == list(
                    range(1, here.record(watched.job).seq + 1)
                )
                here.close()
                there.close()
            finally:
                far.close()
                near.close()
