"""The twenty faults that jobs of days must survive, by number; those that no other file shows.

Where a test stands elsewhere, `WHERE` says so, and this file sees that it is there.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from tasks.control import cancel
from tasks.state import JobState
from tests.support.cluster import Cluster, started
from tests.support.live_node import LiveNode
from tests.support.redis_server import RedisServer
from tests.support.twenty import not_there, reset_connections
from tests.support.waiting import wait_until
from tests.support.wall_clock import WallClock
from tests.support.watched import Watched

pytestmark = pytest.mark.e2e

Start = Callable[..., Cluster]
TESTS: Final = Path(__file__).parents[1]

WHERE: Final = {
    1: ("e2e/test_twenty_faults.py", "test_1_all_connections_are_reset"),
    2: ("e2e/test_twenty_faults.py", "test_2_no_message_can_come_again_while_its_job_runs"),
    3: ("e2e/test_faults.py", "test_the_pool_child_is_killed"),
    4: ("e2e/test_faults.py", "test_the_slot_worker_is_killed"),
    5: ("e2e/test_adoption.py", "test_its_stream_has_no_gap_and_nothing_twice"),
    6: ("e2e/test_twenty_faults.py", "test_6_a_supervisor_stands_still_for_longer_than_its_lease"),
    7: ("e2e/test_twenty_faults.py", "test_7_the_slot_worker_stands_still"),
    8: ("e2e/test_faults.py", "test_the_whole_node_is_killed_and_another_one_takes_the_job"),
    9: ("e2e/test_faults.py", "test_redis_dies_and_comes_back_while_a_job_runs"),
    10: ("e2e/test_faults.py", "test_redis_is_away_for_longer_than_the_lease"),
    11: ("e2e/test_faults.py", "test_a_job_that_ends_while_redis_is_away"),
    12: ("e2e/test_lost_data.py", "test_the_data_of_redis_is_wiped_while_a_job_runs"),
    13: (
        "e2e/test_twenty_faults.py",
        "test_13_a_worker_dies_with_a_message_that_it_had_no_time_for",
    ),
    14: ("e2e/test_twenty_faults.py", "test_14_ten_duplicates_of_a_message"),
    15: ("e2e/test_twenty_faults.py", "test_15_the_whole_process_group_is_told_to_end"),
    16: ("e2e/test_twenty_faults.py", "test_16_a_job_is_cancelled_while_no_worker_is_there"),
    17: ("e2e/test_twenty_faults.py", "test_17_a_running_job_is_cancelled_with_all_its_processes"),
    18: ("e2e/containers/test_container_faults.py", "test_the_engine_is_killed_and_comes_back"),
    19: ("e2e/test_twenty_faults.py", "test_19_a_clock_is_two_hours_wrong"),
    20: ("e2e/test_faults.py", "test_a_job_that_takes_its_node_with_it_each_time_ends"),
}


def test_each_of_the_twenty_is_shown() -> None:
    assert sorted(WHERE) == list(range(1, 21))
    assert not not_there(WHERE.values(), TESTS)


@pytest.fixture(scope="module")
def steady(
    module_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """A node with one slot, whose leases never run out while a test looks."""
    directory = tmp_path_factory.mktemp("steady")
    node = LiveNode(
        directory=directory, redis_url=module_server.url, lease_ttl=60.0, lease_grace=30.0
    )
    with started(node) as made:
        yield made


def test_1_all_connections_are_reset(steady: Cluster, tmp_path: Path) -> None:
    watched = Watched(steady, tmp_path)
    fence = steady.record(watched.job).fence
    client = steady.app.records.client
    reset_connections(client)
    wait_until(
        lambda: len(client.client_list(_type="pubsub")) >= 1, timeout=30, what="it to listen again"
    )
    assert watched.go()["attempt"] == 1
    assert watched.runs == "began ended "
    assert steady.record(watched.job).fence == fence
    steady.wait_clean()


def test_2_no_message_can_come_again_while_its_job_runs(steady: Cluster, tmp_path: Path) -> None:
    """Whatever the visibility timeout: the claim has acknowledged it."""
    watched = Watched(steady, tmp_path)
    client, keys = steady.app.records.client, steady.settings.keys
    assert not client.exists(keys.unacked, keys.unacked_index)
    watched.go()
    steady.wait_clean()


def test_6_a_supervisor_stands_still_for_longer_than_its_lease(
    start_cluster: Start, tmp_path: Path
) -> None:
    """Its keeper stops the job first; another node runs it; and it is refused when it wakes."""
    first = start_cluster("node-a", lease_ttl=1.5, lease_grace=1.0)
    watched = Watched(first, tmp_path)
    second = start_cluster("node-b", lease_ttl=1.5, lease_grace=1.0)
    child = first.node.pool_child()
    [job_pid] = first.node.job_pids()
    os.kill(child, signal.SIGSTOP)
    wait_until(
        lambda: first.node.stopped(job_pid) or not first.node.job_pids(),
        timeout=30,
        what="the job to stand still",
    )
    watched.wait_began(2)
    os.kill(child, signal.SIGCONT)
    assert watched.go()["node"] == "node-b"
    assert watched.runs.count("ended") == 1
    first.wait_clean()
    second.wait_clean()


def test_7_the_slot_worker_stands_still(steady: Cluster, tmp_path: Path) -> None:
    """The pool's child does the work, and renews."""
    watched = Watched(steady, tmp_path)
    worker = steady.node.worker()
    assert worker is not None
    os.kill(worker, signal.SIGSTOP)
    watched.trace.with_name("trace.go").touch()
    assert steady.wait_state(watched.job).state is JobState.SUCCEEDED
    os.kill(worker, signal.SIGCONT)
    assert watched.go()["attempt"] == 1
    assert watched.runs == "began ended "
    steady.wait_clean()


def test_14_ten_duplicates_of_a_message(steady: Cluster, tmp_path: Path) -> None:
    """While it runs, and after its end."""
    watched = Watched(steady, tmp_path)
    client, keys = steady.app.records.client, steady.settings.keys
    message, queue = client.hmget(keys.job(watched.job.id), "message", "queue")
    where = keys.message_list(str(queue), 6)

    def publish() -> None:
        for number in range(5):
            client.lpush(
                where, str(message).replace('"delivery_tag": "', f'"delivery_tag": "{number}')
            )

    publish()
    assert watched.go()["attempt"] == 1
    publish()
    wait_until(lambda: not client.exists(where, keys.unacked), timeout=60, what="all dealt with")
    assert steady.shell("true").get(timeout=60)["attempt"] == 1
    assert watched.runs == "began ended "
    steady.wait_clean()


def test_17_a_running_job_is_cancelled_with_all_its_processes(steady: Cluster) -> None:
    job = steady.shell("(trap '' TERM; sleep 600) & sleep 600 & echo up; wait")
    wait_until(lambda: len(steady.node.job_pids()) >= 3, timeout=30, what="its processes")
    cancel(job.id, app=steady.app)
    assert steady.wait_state(job).state is JobState.CANCELLED
    steady.wait_clean()
    assert steady.shell("true").get(timeout=60)["attempt"] == 1, "its slot is free"


def test_13_a_worker_dies_with_a_message_that_it_had_no_time_for(
    steady: Cluster, tmp_path: Path
) -> None:
    """Popped by a worker that stands still, and is then killed: given back within seconds."""
    worker = steady.node.worker()
    assert worker is not None
    client, keys = steady.app.records.client, steady.settings.keys

    def waits_for_messages() -> bool:
        return any(one["cmd"] == "brpop" and "b" in one["flags"] for one in client.client_list())

    while True:
        wait_until(waits_for_messages, timeout=30, what="the worker to wait for messages")
        os.kill(worker, signal.SIGSTOP)
        job = steady.shell("true")
        where = keys.message_list(steady.record(job).queue, 6)
        # it waits in BRPOP: its socket takes the message although it stands still
        with suppress(AssertionError):
            wait_until(lambda w=where: not client.exists(w), timeout=2, what="it to be popped")
            break
        os.kill(worker, signal.SIGCONT)  # it stood between two of them
        job.get(timeout=60)
    os.kill(worker, signal.SIGKILL)
    assert job.get(timeout=90)["attempt"] == 1
    steady.wait_clean()


def test_15_the_whole_process_group_is_told_to_end(steady: Cluster, tmp_path: Path) -> None:
    """As a service manager does that signals everybody. The job goes back, and is no orphan."""
    watched = Watched(steady, tmp_path)
    worker = steady.node.worker()
    assert worker is not None
    os.killpg(worker, signal.SIGQUIT)
    steady.wait_state(watched.job, JobState.QUEUED)
    steady.forget_hand_back(watched.job)
    wait_until(lambda: watched.runs.count("began") == 2, timeout=100, what="it to run again")
    result = watched.go()
    assert result["attempt"] == 1, "a hand-back is no attempt"
    assert "TWICE" not in watched.runs
    steady.wait_clean()


def test_16_a_job_is_cancelled_while_no_worker_is_there(
    start_cluster: Start, tmp_path: Path
) -> None:
    cluster = start_cluster()
    cluster.node.stop()
    job = cluster.shell(f"touch {tmp_path}/ran")
    assert cancel(job.id, app=cluster.app).state is JobState.CANCELLED
    cluster.node.start()
    assert cluster.shell("true").get(timeout=60)["attempt"] == 1
    assert not (tmp_path / "ran").exists()
    cluster.wait_clean()


@pytest.mark.parametrize("hours", [2, -2])
def test_19_a_clock_is_two_hours_wrong(start_cluster: Start, tmp_path: Path, hours: int) -> None:
    """Of a node that would take the job if its own clock counted."""
    clock = WallClock(tmp_path / "clock")
    first = start_cluster("node-a", lease_ttl=2.0, lease_grace=1.0)
    watched = Watched(first, tmp_path)
    clock.set(hours * 3600.0)
    second = start_cluster("node-b", lease_ttl=2.0, lease_grace=1.0, env=clock.env)
    begun = time.monotonic()
    wait_until(lambda: time.monotonic() > begun + 4, timeout=10, what="two leases' time to pass")
    assert watched.go()["node"] == "node-a"
    assert watched.runs == "began ended "
    first.wait_clean()
    second.wait_clean()
