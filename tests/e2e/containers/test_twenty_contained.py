"""The twenty faults of `tests.e2e.test_twenty_faults`, on jobs in containers.

Those that do not reach as far as the container are left out: `ELSEWHERE` says why.
"""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from celery.result import AsyncResult

from tasks.errors import JobFailed
from tasks.state import JobState
from tests.e2e.containers.traced import Traced
from tests.support import engine
from tests.support.checkpoints import place_of
from tests.support.contained import Contained
from tests.support.redis_server import RedisServer
from tests.support.talker import TALKS, Talker, check_whole
from tests.support.twenty import not_there, reset_connections
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

Start = Callable[..., Contained]
HERE: Final = Path(__file__).parent
SHORT: Final = {"lease_ttl": 2.0, "lease_grace": 1.5}

WHERE: Final = {
    1: ("test_twenty_contained.py", "test_1_all_connections_are_reset"),
    3: ("test_twenty_contained.py", "test_3_the_pool_child_is_killed"),
    4: ("test_container_faults.py", "test_the_slot_worker_is_killed"),
    5: ("test_twenty_contained.py", "test_5_its_stream_has_no_gap_and_nothing_twice"),
    6: ("test_twenty_contained.py", "test_6_a_supervisor_stands_still_for_longer_than_its_lease"),
    7: ("test_twenty_contained.py", "test_7_the_slot_worker_stands_still"),
    8: ("test_container_faults.py", "test_the_whole_node_is_killed_and_comes_back"),
    9: ("test_twenty_contained.py", "test_9_redis_dies_and_comes_back"),
    10: ("test_twenty_contained.py", "test_10_redis_is_away_for_longer_than_the_lease"),
    11: ("test_twenty_contained.py", "test_11_it_ends_while_redis_is_away"),
    12: ("test_twenty_contained.py", "test_12_the_data_of_redis_is_wiped"),
    15: ("test_container_faults.py", "test_a_stop_of_the_node_hands_the_job_back"),
    17: ("test_container_faults.py", "test_a_cancelled_job_leaves_no_container"),
    18: ("test_container_faults.py", "test_the_engine_is_killed_and_comes_back"),
    20: ("test_twenty_contained.py", "test_20_a_job_that_takes_its_keeper_with_it_each_time_ends"),
}
ELSEWHERE: Final = {
    2: "a message that is claimed: nothing runs yet",
    13: "a message that nobody has claimed",
    14: "duplicates of a message: the claim is the same",
    16: "a cancel without a node",
    19: "a wall clock, which no container's keeper looks at either",
}


def test_each_of_the_twenty_is_shown_or_needs_no_container() -> None:
    assert sorted([*WHERE, *ELSEWHERE]) == list(range(1, 21))
    assert not not_there(WHERE.values(), HERE)


@pytest.fixture(scope="module")
def module_node(
    image: str, module_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Contained]:
    """Whose leases never run out while a test looks."""
    made = Contained.start(
        tmp_path_factory.mktemp("steady"),
        module_server.url,
        engine.shared(),
        lease_ttl=60.0,
        lease_grace=30.0,
    )
    yield made
    made.close()


@pytest.fixture
def steady(module_node: Contained) -> Iterator[Contained]:
    """The module's node; every test finds it clean."""
    yield module_node
    module_node.wait_clean()


def ends_in_one_run(node: Contained, traced: Traced) -> None:
    assert traced.go() == "began ended "
    assert node.cluster.record(traced.job).attempt == 1


def test_1_all_connections_are_reset(steady: Contained) -> None:
    traced = Traced(steady)
    reset_connections(steady.cluster.app.records.client)
    ends_in_one_run(steady, traced)


def test_3_the_pool_child_is_killed(steady: Contained) -> None:
    traced = Traced(steady)
    before = steady.container(traced.job)["Id"]
    os.kill(steady.node.pool_child(), signal.SIGKILL)
    steady.cluster.wait_adopted(traced.job, timeout=60)
    assert [one["Id"] for one in steady.containers()] == [before]
    ends_in_one_run(steady, traced)


class Inside(Talker):
    """A job that prints, in a container."""

    def config(self) -> dict[str, object]:
        job_id = f"job-{uuid.uuid4().hex[:12]}"
        program = ["python3", "-c", TALKS, "/job/checkpoints/go", str(self.every), "0"]
        config = {"command": program, "job_id": job_id}
        self.go = place_of(config, self.cluster.node.paths) / "go"
        return config


def test_5_its_stream_has_no_gap_and_nothing_twice(steady: Contained, tmp_path: Path) -> None:
    talker = Inside(steady.cluster, tmp_path)
    job: AsyncResult = talker.submit()
    for _ in range(2):
        os.kill(steady.node.pool_child(), signal.SIGKILL)
        steady.cluster.wait_adopted(job, timeout=60)
        talker.wait_heard(job, 3)
    check_whole(steady.cluster, job, talker.finish(job))


def test_7_the_slot_worker_stands_still(steady: Contained) -> None:
    traced = Traced(steady)
    worker = steady.node.worker()
    assert worker is not None
    os.kill(worker, signal.SIGSTOP)
    (traced.place / "go").touch()
    assert steady.cluster.wait_state(traced.job).state is JobState.SUCCEEDED
    os.kill(worker, signal.SIGCONT)
    result = traced.job.get(timeout=60)
    assert (Path(result["artifacts_dir"]) / "trace").read_text() == "began ended "


def test_9_redis_dies_and_comes_back(steady: Contained, module_server: RedisServer) -> None:
    traced = Traced(steady)
    module_server.restart()
    ends_in_one_run(steady, traced)


def test_11_it_ends_while_redis_is_away(steady: Contained, module_server: RedisServer) -> None:
    traced = Traced(steady)
    module_server.kill()
    (traced.place / "go").touch()
    wait_until(
        lambda: not [one for one in steady.containers() if one["State"] == "running"],
        timeout=30,
        what="its end",
    )
    module_server.start()
    result = traced.job.get(timeout=60)
    assert (Path(result["artifacts_dir"]) / "trace").read_text() == "began ended "


def test_12_the_data_of_redis_is_wiped(steady: Contained) -> None:
    traced = Traced(steady)
    fence = steady.cluster.record(traced.job).fence
    steady.cluster.app.records.client.flushall()
    ends_in_one_run(steady, traced)
    assert steady.cluster.record(traced.job).fence == fence


def test_6_a_supervisor_stands_still_for_longer_than_its_lease(
    start_contained: Start, tmp_path: Path
) -> None:
    """Its keeper stops the container first; another node runs the job, in the same directory; and
    it is refused when it wakes."""
    shared = tmp_path / "shared"
    storage = {"storage": {"checkpoints": str(shared)}}
    first = start_contained("node-a", extra=storage, **SHORT)
    traced = Traced(first, shared)
    child = first.node.pool_child()
    os.kill(child, signal.SIGSTOP)
    wait_until(
        lambda: not [one for one in first.containers() if one["State"] == "running"],
        timeout=30,
        what="the container to stand still",
    )
    second = start_contained("node-b", extra=storage, **SHORT)
    traced.wait_began(2)
    os.kill(child, signal.SIGCONT)
    # what stands still keeps its lock, and does nothing by it
    assert traced.go().replace("TWICE ", "") == "began began ended "
    assert second.cluster.record(traced.job).node == "node-b"
    first.wait_clean()
    second.wait_clean()


def test_10_redis_is_away_for_longer_than_the_lease(
    start_contained: Start, server: RedisServer
) -> None:
    """The container stands still, and goes on when Redis is back."""
    node = start_contained(**SHORT)
    traced = Traced(node)
    before = node.container(traced.job)["Id"]
    server.kill()

    def states() -> list[tuple[str, str]]:
        return [(one["Id"], one["State"]) for one in node.containers()]

    wait_until(lambda: states() == [(before, "paused")], timeout=30, what="it to stand still")
    server.start()
    wait_until(lambda: states() == [(before, "running")], timeout=30, what="it to go on")
    ends_in_one_run(node, traced)
    node.wait_clean()


def test_20_a_job_that_takes_its_keeper_with_it_each_time_ends(steady: Contained) -> None:
    traced = Traced(steady, max_attempts=2)
    for times in (1, 2):
        traced.wait_began(times)
        os.kill(steady.node.keeper(traced.attempt), signal.SIGKILL)
    record = steady.cluster.wait_state(traced.job)
    assert (record.state, record.reason) == (JobState.FAILED, "node_lost")
    with pytest.raises(JobFailed, match="node_lost"):
        traced.job.get(timeout=60)
