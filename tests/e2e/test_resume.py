"""A training that loses its node goes on from its last checkpoint, and ends as if it had not."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.events import Progress
from tasks.following import follow
from tests.support.cluster import Cluster
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

# Large enough that an epoch takes a while: the kill shall come in the middle of one.
CONFIG: dict[str, Any] = {
    "model_definition": {
        "layers": [
            {"type": "Dense", "units": 768, "activation": "relu"},
            {"type": "Dense", "units": 768, "activation": "relu"},
            {"type": "Dense", "units": 10, "activation": "softmax"},
        ],
        "optimizer": "adam",
        "loss": "cross_entropy",
    },
    "dataset_uri": "builtin:digits",
    "epochs": 10,
    "checkpoint_every": 2,
    "seed": 11,
}


def test_killed_in_epoch_6_of_10(cluster: Cluster) -> None:
    whole = cluster.submit(CONFIG).get(timeout=110)
    job = cluster.submit(CONFIG)
    killed = False
    epochs: dict[int, list[int]] = {}
    for one in follow(job.id, settings=cluster.settings, timeout=110):
        if isinstance(one.event, Progress):
            epochs.setdefault(one.attempt, []).append(one.event.epoch)
            if one.event.epoch == 5 and not killed:  # the fifth is over: it is in the sixth
                killed = True
                # the program dies with its keeper; with its supervisor alone it would go on
                attempt = cluster.node.paths.attempts / f"{job.id}~1"
                os.kill(cluster.node.keeper(attempt), signal.SIGKILL)
    assert sorted(epochs) == [1, 2]
    assert epochs[1][0] == 1
    assert epochs[1][-1] < 10
    assert epochs[2][0] >= 4 + 1, "the epochs up to the last checkpoint are not trained again"
    assert epochs[2][-1] == 10
    result = job.get(timeout=30)
    assert result["attempt"] == 2
    assert result["metrics"] == whole["metrics"]


def test_on_another_node_it_goes_on_from_what_they_share(
    start_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    """The node is lost in the midst of the sixth epoch, and of a checkpoint."""
    shared = tmp_path / "shared"
    timing: dict[str, Any] = {"lease_ttl": 2.0, "lease_grace": 1.0}
    storage = {"storage": {"checkpoints": str(shared)}}
    first = start_cluster("node-a", extra=storage, **timing)
    job = first.submit(CONFIG)
    second: Cluster | None = None
    epochs: dict[int, list[int]] = {}
    nodes: dict[int, str] = {}
    for one in follow(job.id, settings=first.settings, timeout=110):
        nodes[one.attempt] = one.node
        if isinstance(one.event, Progress):
            epochs.setdefault(one.attempt, []).append(one.event.epoch)
            if one.event.epoch == 5 and second is None:
                keeper = first.node.keeper(first.node.paths.attempts / f"{job.id}~1")
                first.node.kill_everything()
                os.kill(keeper, signal.SIGKILL)
                place = first.checkpoints(job, shared)
                whole = place / "epoch-000004.safetensors"
                half = place / "epoch-000009.safetensors"
                half.write_bytes(whole.read_bytes()[:-1])
                half.with_name(f"{half.name}.sha256").write_text(f"{'0' * 64}  {half.name}\n")
                first.forget_leader()
                second = start_cluster("node-b", extra=storage, **timing)
    assert (nodes[1], nodes[2]) == ("node-a", "node-b")
    assert epochs[1][-1] < 10
    assert epochs[2][0] >= 4 + 1, "the epochs up to the last checkpoint are not trained again"
    assert epochs[2][-1] == 10, "what was half-written is not gone on from"
    assert job.get(timeout=30)["attempt"] == 2
    wait_until(lambda: not list(shared.iterdir()), what="its checkpoints gone")
    assert second is not None
    second.wait_clean()
