"""Nodes and producers of this version beside those of another one: ``make mixed OLD=COMMIT``.

What the other version writes today is not what it will write tomorrow, so nothing is recorded here:
its own programs run. Without another version there is nothing to test.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.cluster import Cluster
from tests.support.talker import Talker, check_whole
from tests.support.watched import Watched

OTHER: Final = os.environ.get("OTHER_VERSION_PYTHON", "")

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not OTHER, reason="OTHER_VERSION_PYTHON names no other version's Python"),
]

Start = Callable[..., Cluster]
EITHER: Final = {"old to new": (OTHER, sys.executable), "new to old": (sys.executable, OTHER)}
both_ways = pytest.mark.parametrize(("one", "other"), EITHER.values(), ids=EITHER.keys())

PRODUCER: Final = """
import json, sys
from celery import chain
from tasks import follow, train
first = train.si({"command": ["echo", "of the chain"]})
print(chain(first, train.si({"command": ["true"]})).apply_async().get(timeout=60)["attempt"])
job = train.delay({"command": ["echo", "heard"]})
print(json.dumps([one.event.type if hasattr(one.event, "type") else one.type
                  for one in follow(job.id, timeout=60)]))
"""


@both_ways
def test_a_producer(start_cluster: Start, one: str, other: str) -> None:
    """``one``'s, with a node of the ``other``'s."""
    cluster = start_cluster(python=other)
    env = {"CYXWIZ_REDIS_URL": cluster.settings.redis_url, "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [one, "-c", PRODUCER], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    attempt, kinds = done.stdout.splitlines()
    assert attempt == "1"
    assert json.loads(kinds)[0] == "queued"
    assert json.loads(kinds)[-1] == "succeeded"
    cluster.wait_clean()


@both_ways
def test_a_job_whose_node_is_lost(
    start_cluster: Start, tmp_path: Path, one: str, other: str
) -> None:
    """Its record is ``one``'s, and the node that runs it again the ``other``'s."""
    timing: dict[str, Any] = {"lease_ttl": 2.0, "lease_grace": 1.0}
    first = start_cluster("node-a", python=one, **timing)
    watched = Watched(first, tmp_path)
    second = start_cluster("node-b", python=other, **timing)
    keeper = first.node.keeper(first.node.paths.attempts / f"{watched.job.id}~1")
    first.node.kill_everything()
    os.kill(keeper, signal.SIGKILL)
    watched.wait_began(2)
    assert watched.go()["node"] == "node-b"
    assert watched.runs == "began began ended "
    second.wait_clean()


@both_ways
def test_a_node_is_stopped_and_the_other_version_started(
    start_cluster: Start, tmp_path: Path, one: str, other: str
) -> None:
    """Its job does not notice."""
    cluster = start_cluster(python=one, lease_ttl=60.0, lease_grace=30.0)
    talker = Talker(cluster, tmp_path)
    job = talker.submit()
    assert cluster.node.leave() == 0
    cluster.node.python = other
    cluster.node.start()
    cluster.wait_adopted(job)
    talker.wait_heard(job, 5)
    check_whole(cluster, job, talker.finish(job))
    cluster.wait_clean()
