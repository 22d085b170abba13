"""Whatever dies while a job runs, the job ends, never runs twice at once, and leaves nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.errors import JobFailed
from tasks.state import JobState
from tests.support.cluster import Cluster
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until
from tests.support.watched import Watched

pytestmark = pytest.mark.e2e

Start = Callable[..., Cluster]


def test_the_pool_child_is_killed(start_cluster: Start, tmp_path: Path) -> None:
    cluster = start_cluster()
    watched = Watched(cluster, tmp_path)
    fence = cluster.record(watched.job).fence
    os.kill(cluster.node.pool_child(), signal.SIGKILL)
    cluster.wait_adopted(watched.job)
    watched.ends()
    assert cluster.record(watched.job).fence == fence


def test_the_slot_worker_is_killed(start_cluster: Start, tmp_path: Path) -> None:
    cluster = start_cluster()
    watched = Watched(cluster, tmp_path)
    worker = cluster.node.worker()
    assert worker is not None
    os.kill(worker, signal.SIGKILL)
    cluster.wait_adopted(watched.job)
    watched.ends()


def test_the_agent_is_killed(start_cluster: Start, tmp_path: Path) -> None:
    """The slot goes on without it, and the next agent takes it over: no attempt is lost."""
    cluster = start_cluster()
    watched = Watched(cluster, tmp_path)
    worker = cluster.node.worker()
    assert cluster.node.process is not None
    cluster.node.process.kill()
    cluster.node.process.wait(10)
    cluster.node.start()
    assert cluster.node.worker() == worker
    watched.ends()
    assert cluster.node.stop() == 0


def test_the_keeper_is_killed(start_cluster: Start, tmp_path: Path) -> None:
    """Its native job dies with it, and is run again."""
    cluster = start_cluster()
    watched = Watched(cluster, tmp_path)
    [directory] = cluster.node.paths.attempts.iterdir()
    os.kill(cluster.node.keeper(directory), signal.SIGKILL)
    watched.wait_began(2)
    watched.ends(attempt=2, runs=2)


def test_the_keeper_is_killed_while_its_node_is_away(start_cluster: Start, tmp_path: Path) -> None:
    """The node's next start gives the job back: nobody waits until its long lease has run out."""
    cluster = start_cluster(lease_ttl=60.0, lease_grace=30.0)
    watched = Watched(cluster, tmp_path)
    [directory] = cluster.node.paths.attempts.iterdir()
    keeper = cluster.node.keeper(directory)
    assert cluster.node.leave() == 0
    os.kill(keeper, signal.SIGKILL)
    cluster.node.start()
    watched.wait_began(2)
    watched.ends(attempt=2, runs=2)


def test_the_whole_node_is_killed_and_another_one_takes_the_job(
    start_cluster: Start, tmp_path: Path
) -> None:
    """Nobody is left to give the job back: its lease runs out, and the reaper of another node
    queues it again. What the dead node's keeper held has ended by then."""
    first = start_cluster("node-a", lease_ttl=2.0, lease_grace=1.0)
    watched = Watched(first, tmp_path)
    second = start_cluster("node-b", lease_ttl=2.0, lease_grace=1.0)
    first.node.kill_everything()
    watched.wait_began(2)
    assert watched.go()["node"] == "node-b"
    assert watched.runs == "began began ended "
    second.wait_clean()
    first.node.start()
    first.wait_clean()


def test_redis_dies_and_comes_back_while_a_job_runs(
    start_cluster: Start, server: RedisServer, tmp_path: Path
) -> None:
    cluster = start_cluster()
    watched = Watched(cluster, tmp_path)
    server.restart()
    watched.ends()


def test_a_job_that_ends_while_redis_is_away(
    start_cluster: Start, server: RedisServer, tmp_path: Path
) -> None:
    cluster = start_cluster()
    watched = Watched(cluster, tmp_path)
    server.kill()
    watched.trace.with_name("trace.go").touch()
    wait_until(lambda: "ended" in watched.runs, what="the job's own end")
    server.start()
    assert watched.go()["attempt"] == 1
    cluster.wait_clean()


def test_redis_is_away_for_longer_than_the_lease(
    start_cluster: Start, server: RedisServer, tmp_path: Path
) -> None:
    """The job stands still when its lease may be somebody else's, and goes on after it."""
    cluster = start_cluster(lease_ttl=1.5, lease_grace=20.0)
    watched = Watched(cluster, tmp_path)
    [pid] = cluster.node.job_pids()
    server.freeze()
    wait_until(lambda: cluster.node.stopped(pid), timeout=20, what="the job to stand still")
    server.thaw()
    watched.wait_began(1)
    watched.go()
    assert "TWICE" not in watched.runs
    assert watched.runs.count("ended") == 1
    cluster.wait_clean()


def test_a_stop_hands_the_job_to_another_node(start_cluster: Start, tmp_path: Path) -> None:
    first = start_cluster("node-a")
    watched = Watched(first, tmp_path)
    second = start_cluster("node-b")
    assert first.node.process is not None
    first.node.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "node stopping" in first.node.said, what="the drain")
    first.node.process.send_signal(signal.SIGTERM)
    assert first.node.process.wait(30) == 0
    watched.wait_began(2)
    result = watched.go()
    assert result["node"] == "node-b"
    assert result["attempt"] == 1, "a hand-back is no attempt"
    assert watched.runs == "began began ended "
    first.wait_clean()
    second.wait_clean()


def test_a_stop_that_kills_gives_the_job_back(start_cluster: Start, tmp_path: Path) -> None:
    """As one whose worker takes too long for it: nobody waits for the lease, nothing counts."""
    cluster = start_cluster(lease_ttl=60.0, lease_grace=30.0)
    watched = Watched(cluster, tmp_path)
    os.kill(cluster.node.pool_child(), signal.SIGSTOP)
    process = cluster.node.process
    assert process is not None

    def ask(heard: str) -> None:
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: heard in cluster.node.said, what=heard)

    ask("jobs in progress end first")
    ask("jobs in progress are handed back")
    ask("slot.killed")
    assert process.wait(30) == 0
    assert not cluster.node.job_pids()
    record = cluster.record(watched.job)
    assert (record.state, record.attempt) == (JobState.QUEUED, 0)
    cluster.node.start()
    watched.wait_began(2)
    assert watched.go()["attempt"] == 1, "a hand-back is no attempt"
    cluster.wait_clean()


def test_a_job_that_takes_its_node_with_it_each_time_ends(
    start_cluster: Start, tmp_path: Path
) -> None:
    cluster = start_cluster()
    watched = Watched(cluster, tmp_path, max_attempts=2)
    for times in (1, 2):
        watched.wait_began(times)
        [directory] = cluster.node.paths.attempts.iterdir()
        os.kill(cluster.node.keeper(directory), signal.SIGKILL)
    record = cluster.wait_state(watched.job)
    assert record.state is JobState.FAILED
    assert record.reason == "node_lost"
    with pytest.raises(JobFailed, match="node_lost"):
        watched.job.get(timeout=60)
    cluster.wait_clean()


LEAVES_A_CHILD = """
import os, sys, time
trace = os.environ["TRACE"]
if os.path.exists(trace + ".left"):
    sys.exit(0)
if os.fork():
    os.wait()
os.setsid()
stamp = os.open(trace + ".left", os.O_CREAT | os.O_RDWR)
print("at work", flush=True)
while True:
    os.pwrite(stamp, b"%.6f" % time.time(), 0)
"""


def test_a_job_is_given_back_only_when_nothing_of_it_lives(
    start_cluster: Start, tmp_path: Path
) -> None:
    """Its keeper is killed, and a process that has left its group works on to its last moment."""
    cluster = start_cluster()
    trace = tmp_path / "trace"
    job = cluster.command(LEAVES_A_CHILD, env={"TRACE": str(trace)})
    left = trace.with_suffix(".left")
    wait_until(lambda: left.exists() and left.read_text(), timeout=30, what="its child at work")
    cluster.wait_state(job, JobState.RUNNING)
    [directory] = cluster.node.paths.attempts.iterdir()
    os.kill(cluster.node.keeper(directory), signal.SIGKILL)
    assert job.get(timeout=60)["attempt"] == 2
    [given_back] = [one.ts for one in cluster.events(job) if one.type == "retrying"]
    assert float(left.read_text()) < given_back + 0.001, "both clocks are this host's"
    cluster.wait_clean()


def test_a_pool_child_that_cannot_begin_takes_no_job(start_cluster: Start) -> None:
    """Where none can, the slot's worker ends, and its agent starts it again, at ever longer
    intervals: it is not said to serve, and no job's message goes round and round."""
    cluster = start_cluster()
    attempts = cluster.node.paths.attempts
    away = attempts.with_name("away")
    attempts.rename(away)
    attempts.write_text("no directory: as a disk that is broken")
    os.kill(cluster.node.pool_child(), signal.SIGKILL)
    wait_until(lambda: "slot.restarting" in cluster.node.said, timeout=60, what="the worker's end")
    attempts.unlink()
    away.rename(attempts)
    assert cluster.shell("true").get(timeout=60)["attempt"] == 1
    log = "".join(path.read_text() for path in cluster.node.paths.logs.glob("*.log"))
    assert log.count("slot.child_unable") >= 3
    assert "this worker is no node" not in log
    cluster.wait_clean()


SAVES = """
import os, sys, time
place = os.environ["CYXWIZ_CHECKPOINTS"]
with open(sys.argv[1], "a") as trace:
    trace.write("began ")
while not os.path.exists(sys.argv[1] + ".go"):
    time.sleep(0.02)
with open(place + "/epoch-1", "w") as saved:  # it was told that the directory is there
    saved.write("weights")
"""


def test_an_attempt_that_wakes_up_late_takes_nothing_from_the_next_one(
    start_cluster: Start, tmp_path: Path
) -> None:
    """Both are on one node, in two slots, and have one directory for checkpoints."""
    cluster = start_cluster(slots=2, lease_ttl=1.5, lease_grace=1.0)
    trace = tmp_path / "trace"
    job = cluster.submit({"command": ["python3", "-c", SAVES, str(trace)]})
    wait_until(lambda: trace.exists() and "began" in trace.read_text(), timeout=30, what="a run")
    cluster.wait_state(job, JobState.RUNNING)
    slot = cluster.record(job).slot
    child = cluster.node.pool_child(slot)
    os.kill(child, signal.SIGSTOP)
    wait_until(lambda: trace.read_text().count("began") == 2, timeout=30, what="another run")
    other = cluster.wait_state(job, JobState.RUNNING).slot
    assert other != slot
    os.kill(child, signal.SIGCONT)
    assert cluster.shell("true").get(timeout=30)["slot"] == slot, "it has cleared up"
    trace.with_name("trace.go").touch()
    assert job.get(timeout=60)["slot"] == other
    cluster.wait_clean()
