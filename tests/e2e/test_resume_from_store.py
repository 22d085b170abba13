"""A job whose node is lost goes on, on a node that shares nothing with it but the store."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.events import Progress
from tasks.following import follow
from tasks.sent import SentCheckpoints
from tasks.state import JobState
from tests.e2e.test_resume import CONFIG
from tests.support.cluster import Cluster
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

SAVES = """
import json, os, time
with open(os.environ["CYXWIZ_CHECKPOINTS"] + "/saved", "w") as file:
    file.write("1")
print(json.dumps({{"type": "checkpoint", "epoch": 1, "path": "saved"}}), flush=True)
while not os.path.exists({go!r}):
    time.sleep(0.05)
"""


def storing(place: Path) -> dict[str, Any]:
    return {"storage": {"checkpoints": f"local://{place}", "checkpoints_every": 1.0}}


def epochs_in(store: Path, job_id: str, listing: str) -> int:
    """How many epochs the newest checkpoint of a snapshot has."""
    [place] = (store / "_checkpoints" / job_id).iterdir()  # of its one binding
    files = json.loads((place / listing).read_text())
    names = [name for name, _, _ in files if name.endswith(".safetensors")]
    return max(int(name.removeprefix("epoch-").split("-")[0].split(".")[0]) for name in names)


def test_on_another_node_it_goes_on_from_what_was_sent(
    start_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    """The whole node is killed in the midst of the training."""
    store = tmp_path / "store"
    timing: dict[str, Any] = {"lease_ttl": 2.0, "lease_grace": 1.0, "extra": storing(store)}
    first = start_cluster("node-a", **timing)
    index = SentCheckpoints(first.app.records.client, first.settings.keys)
    job = first.submit({**CONFIG, "epochs": 14})
    second: Cluster | None = None
    epochs: dict[int, list[int]] = {}
    nodes: dict[int, str] = {}
    saved = 0
    for one in follow(job.id, settings=first.settings, timeout=110):
        nodes[one.attempt] = one.node
        if isinstance(one.event, Progress):
            epochs.setdefault(one.attempt, []).append(one.event.epoch)
            if one.event.epoch >= 5 and second is None and index.of(job.id) is not None:
                keeper = first.node.keeper(first.node.paths.attempts / f"{job.id}~1")
                first.node.kill_everything()
                os.kill(keeper, signal.SIGKILL)
                sent = index.of(job.id)
                assert sent is not None
                saved = epochs_in(store, job.id, sent.sha256)
                first.forget_leader()
                second = start_cluster("node-b", **timing)
    assert saved >= 2
    assert second is not None
    assert (nodes[1], nodes[2]) == ("node-a", "node-b")
    assert epochs[1][-1] < 14
    assert epochs[2] == list(range(saved + 1, 15)), "none is trained again, none is left out"
    assert job.get(timeout=30)["attempt"] == 2
    second.wait_clean()
    folder = store / "_checkpoints" / job.id
    wait_until(lambda: not folder.exists(), timeout=30, what="nothing left in the store")
    wait_until(lambda: not index.store_of(job.id), timeout=30, what="nothing left to be removed")


def test_a_store_that_cannot_be_written_to_costs_the_job_nothing(
    start_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    (tmp_path / "store").write_text("no folder")
    cluster = start_cluster("node-a", extra=storing(tmp_path / "store"))
    go = tmp_path / "go"
    job = cluster.command(SAVES.format(go=str(go)))

    def said() -> bool:
        log = cluster.node.paths.slot_log("cpu0").read_text()
        return f"checkpoint.unsent attempt={job.id}~1" in log

    wait_until(said, timeout=60, what="it to fail")
    go.touch()
    assert job.get(timeout=60)["attempt"] == 1
    assert cluster.record(job).state is JobState.SUCCEEDED
    cluster.wait_clean()
