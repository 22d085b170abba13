"""The commands about the cluster, with a node of two slots and with nodes that are only entries."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tasks.keys import Keys
from tests.support.cli import Cli
from tests.support.cli_jobs import STEPS, Busy, python, submitted
from tests.support.fleet import gpu_offer, node
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

GPU_JOB = {"command": ["true"], "required_device": "cuda", "gpus": 1, "gpu_memory_mb": 20_000}


@pytest.fixture
def client(hub: RedisServer) -> Iterator[redis.Redis]:
    client = hub.client()
    yield client
    client.close()


def test_nodes_and_top_show_who_runs_what(cli: Cli, busy: Busy) -> None:
    done = cli("nodes")
    assert done.code == 0
    (row,) = [line for line in done.out.splitlines() if line.startswith("node-a ")]
    assert row.split()[1:4] == ["ready", "1/2", "none"]
    assert f"cpu0: {busy.job_id}" in row or f"cpu1: {busy.job_id}" in row
    found = {one["name"]: one for one in cli("nodes", "--json").json["nodes"]}
    assert (found["node-a"]["status"], found["node-a"]["busy"]) == ("alive", 1)
    assert found["node-a"]["record"]["mode"] == "native"
    shown = cli("top", "--once").out
    assert "cpu slots 1/2" in shown
    assert busy.job_id in shown
    seen = cli("top", "--json").json
    assert [one["job_id"] for one in seen["jobs"]] == [busy.job_id]
    assert seen["capacity"]["kinds"]["cpu"] == {"slots": 2, "busy": 1}
    assert cli("explain", busy.job_id).out.splitlines()[1].startswith("why    it runs on node-a/")


def test_a_job_that_nobody_can_serve_is_accepted_and_told_of(cli: Cli, client: redis.Redis) -> None:
    done = cli("submit", "-", stdin=json.dumps(GPU_JOB))
    job_id = done.out.strip()
    assert done.code == 0
    assert f"job {job_id} waits until a node can serve it: no live node has a cuda GPU" in done.err
    said = cli("submit", "-", "--json", stdin=json.dumps({**GPU_JOB, "pool": "lab-a"})).json
    assert said["missing"].startswith("no live node gives 1 cuda GPU of 24000 MB, confined, or")
    assert said["missing"].endswith("in pool lab-a")
    found = cli("explain", job_id, "--json").json
    assert (found["servers"], found["place"]) == (0, 1)
    assert "no live node has a cuda GPU" in cli("explain", job_id).out
    assert "1 cuda GPU of 24000 MB" in cli("queues").out
    paper = node(client, Keys(), "node-g", gpu_offer())
    assert cli("explain", job_id, "--json").json["nodes"] == ["node-g"]
    queue = next(one for one in cli("queues", "--json").json["queues"] if one["oldest"] == job_id)
    assert (queue["waiting"], queue["servers"]) == (1, 1)
    paper.leave()
    assert cli("cancel", job_id).code == 0
    assert cli("cancel", said["job_id"]).code == 0


def test_a_job_for_one_node_waits_for_it(cli: Cli, done_job: str) -> None:
    job = python(STEPS)
    job_id = cli("submit", "-", "--node", "node-a", stdin=job).out.strip()
    assert cli("follow", job_id).code == 0
    done = cli("submit", "-", "--node", "node-z", stdin=job)
    assert "node node-z is not there, or takes no jobs" in done.err
    assert cli("cancel", done.out.strip()).code == 0
    done = cli("submit", "-", "--node", "Node Z", stdin=job)
    assert (done.code, "--node: node 'Node Z'" in done.err) == (3, True)


def test_a_cordoned_node_takes_no_job_until_it_may_again(cli: Cli) -> None:
    done = cli("drain", "node-a", "--wait", "--why", "new disk")
    assert (done.code, done.out) == (0, "node node-a has no job\n")
    wait_until(lambda: "0/2" in cli("nodes").out and "(new disk)" in cli("nodes").out)
    job_id = submitted(cli, python(STEPS))
    wait_until(
        lambda: cli("explain", job_id, "--json").json["servers"] == 0, what="nobody serves it"
    )
    assert cli("job", job_id, "--json").json["state"] == "queued"
    assert cli("uncordon", "node-a").out == "node node-a takes jobs again\n"
    assert cli("follow", job_id).code == 0
    assert cli("uncordon", "node-a").out == "node node-a was not cordoned\n"


def test_a_node_that_is_not_known_can_be_cordoned(cli: Cli) -> None:
    done = cli("cordon", "node-z")
    assert (done.code, done.out) == (0, "node node-z takes no new job\n")
    assert "no node node-z is known now" in done.err
    assert cli("uncordon", "node-z", "--json").json == {"node": "node-z", "changed": True}
    assert cli("cordon", "Node Z").code == 2


def test_a_wrong_password_of_redis_is_said_and_not_shown(
    cli: Cli, hub: RedisServer, client: redis.Redis, tmp_path: Path
) -> None:
    client.acl_setuser(
        "ann", enabled=True, passwords=["+right"], keys=["*"], channels=["*"], categories=["+@all"]
    )
    url = hub.tcp_url.replace("redis://", "redis://ann:{}@")
    assert cli("nodes", "--redis", url.format("right")).code == 0
    env = {"CYXWIZ_NODE__STATE_DIR": str(tmp_path / "state")}
    for command in (("nodes",), ("explain", "x"), ("top",), ("node",)):
        done = cli(*command, "--redis", url.format("wr0ng"), env=env)
        assert done.code == 4, done
        assert "invalid username-password pair" in done.err
        assert "wr0ng" not in done.err + done.out
    client.acl_deluser("ann")


def test_usage(cli: Cli, done_job: str) -> None:
    job = python(STEPS, user_id="ann")
    cli("submit", "-", "--follow", stdin=job)
    assert "ann" in cli("usage").out
    (row,) = cli("usage", "--user", "ann", "--json").lines
    assert row["slot_seconds"] > 0
    assert row["gpu_seconds"] == 0
    head, line = cli("usage", "--user", "ann", "--csv").out.splitlines()
    assert head == "day,user_id,slot_seconds,gpu_seconds"
    assert line.split(",")[:2] == [row["day"], "ann"]
    assert cli("usage", "--from", "2020-01-01").code == 2
    assert cli("usage", "--to", "2020-01-01", "--from", "2020-01-01", "--json").out == ""


def test_top_on_a_terminal_is_live_until_it_is_interrupted(cli: Cli, tmp_path: Path) -> None:
    del tmp_path
    import os
    import pty
    import signal
    import subprocess

    from tests.support.cli import COMMAND

    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "top", "--every", "0.2"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=cli.cwd,
        env={**cli.environment(), "LINES": "30"},
    )
    os.close(theirs)
    said = b""
    while said.count(b"node-a") < 3:  # drawn again and again
        said += os.read(ours, 65536)
    process.send_signal(signal.SIGINT)
    try:
        while os.read(ours, 65536):
            pass
    except OSError:
        pass  # EIO: it has ended
    os.close(ours)
    assert process.wait(20) == 0
