"""A training that loses its node goes on from its last checkpoint, and ends as if it had not."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from tasks.events import Progress
from tasks.following import follow
from tests.support.cluster import Cluster

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
