"""What a container saved, by way of a store, in a container of another node."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.sent import SentCheckpoints
from tests.support.contained import Contained
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

# Saves and waits; where something is saved, it reads that, writes to it and removes it.
SAVES = """
import json, os, sys, time
place = "/job/checkpoints/inner"
saved = place + "/saved"
if os.path.exists(saved):
    with open(saved, "r+") as file:
        print("found", file.read(), flush=True)
        file.write("more")
    os.unlink(saved)
    os.rmdir(place)
    sys.exit()
os.mkdir(place, 0o700)
with open(os.open(saved, os.O_CREAT | os.O_WRONLY, 0o600), "w") as file:
    file.write("what it was")
print(json.dumps({"type": "checkpoint", "epoch": 1, "path": saved}), flush=True)
time.sleep(600)
"""


def test_it_is_its_own_there(start_contained: Callable[..., Contained], tmp_path: Path) -> None:
    store = tmp_path / "store"
    given: dict[str, Any] = {
        "lease_ttl": 2.0,
        "lease_grace": 1.5,
        "extra": {"storage": {"checkpoints": f"local://{store}", "checkpoints_every": 1.0}},
    }
    first = start_contained("node-a", **given)
    cluster = first.cluster
    index = SentCheckpoints(cluster.app.records.client, cluster.settings.keys)
    job = cluster.command(SAVES)
    wait_until(lambda: index.of(job.id) is not None, timeout=60, what="it to be sent")
    (attempt,) = first.node.paths.attempts.iterdir()
    keeper = first.node.keeper(attempt)
    first.node.kill_everything()
    os.kill(keeper, signal.SIGKILL)
    cluster.forget_leader()
    second = start_contained("node-b", **given)
    result = job.get(timeout=90)
    assert (result["node"], result["attempt"]) == ("node-b", 2)
    assert "found what it was" in second.cluster.logged(job)
    second.wait_clean()
    wait_until(lambda: not index.store_of(job.id), timeout=30, what="nothing left in the store")
    place = store / "_checkpoints" / job.id
    wait_until(lambda: not place.exists(), what="its copies gone")
