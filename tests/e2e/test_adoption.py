"""An attempt outlives its supervisor: the next goes on with it, and nobody sees a difference."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from celery import chain, chord
from celery.result import AsyncResult

from tasks.events import Envelope, Log, Progress
from tasks.publishing import TRAIN
from tasks.state import JobState
from tests.support.cluster import Cluster
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until
from worker.keeper import procfs

pytestmark = pytest.mark.e2e

Start = Callable[..., Cluster]
LONG = {"lease_ttl": 60.0, "lease_grace": 30.0}
"""No lease runs out meanwhile, however slow the host is."""

# Prints numbered lines on both streams, and progress, until the file "go" is there. Its result
# names the process.
TALKS = """
import json, os, sys, time
go = sys.argv[1]
every = float(sys.argv[2])
report = {"type": "progress", "epoch": 1, "total_epochs": 9, "pid": os.getpid()}
print(json.dumps(report), flush=True)
number = 0
while True:
    last = os.path.exists(go)
    print(f"out {number}", flush=True)
    print(f"err {number}", file=sys.stderr, flush=True)
    number += 1
    if last:
        break
    time.sleep(every)
metrics = {"pid": os.getpid(), "lines": number}
print(json.dumps({"type": "complete", "success": True, "metrics": metrics}), flush=True)
open(go + ".over", "w").close()
time.sleep(float(sys.argv[3]))
"""


class Talker:
    """A job that prints, on one node."""

    def __init__(self, cluster: Cluster, directory: Path, *, every: float = 0.05) -> None:
        self.cluster = cluster
        self.go = directory / "go"
        self.every = every
        self.linger = 0.0

    def config(self) -> dict[str, object]:
        program = ["python3", "-c", TALKS, str(self.go), str(self.every), str(self.linger)]
        return {"command": program}

    def submit(self) -> AsyncResult:
        job = self.cluster.submit(self.config())
        self.wait_heard(job, 3)
        return job

    def heard(self, job: AsyncResult) -> int:
        """How many lines were published."""
        client = self.cluster.app.records.client
        return int(client.xlen(self.cluster.settings.keys.tail(job.id)))

    def wait_heard(self, job: AsyncResult, more: int) -> None:
        before = self.heard(job)
        wait_until(lambda: self.heard(job) >= before + more, timeout=30, what="news of the job")

    def finish(self, job: AsyncResult) -> dict[str, object]:
        self.go.touch()
        result: dict[str, object] = job.get(timeout=60)
        return result


def lines(found: list[Envelope], stream: str) -> list[int]:
    return [
        int(line.split()[1])
        for one in found
        if isinstance(one.event, Log) and one.event.stream == stream
        for line in one.event.lines
        if re.fullmatch(r"(out|err) \d+", line)
    ]


def check_whole(cluster: Cluster, job: AsyncResult, result: dict[str, object]) -> None:
    """Every line once and in order, every event numbered, one start, one end; the same process."""
    found = cluster.events(job)
    assert [one.seq for one in found] == list(range(1, len(found) + 1))
    metrics = result["metrics"]
    assert isinstance(metrics, dict)
    printed = list(range(int(metrics["lines"])))
    assert lines(found, "stdout") == printed
    assert lines(found, "stderr") == printed
    kinds = [one.type for one in found]
    assert (kinds.count("started"), kinds.count("succeeded"), kinds.count("retrying")) == (1, 1, 0)
    [progress] = [one.event for one in found if isinstance(one.event, Progress)]
    assert progress.metrics["pid"] == metrics["pid"]
    assert result["attempt"] == 1


def test_its_stream_has_no_gap_and_nothing_twice(start_cluster: Start, tmp_path: Path) -> None:
    """However often, and whichever process of the slot it is."""
    cluster = start_cluster(**LONG)
    talker = Talker(cluster, tmp_path)
    job = talker.submit()
    fence = cluster.record(job).fence
    for _ in range(2):
        os.kill(cluster.node.pool_child(), signal.SIGKILL)
        cluster.wait_adopted(job)
        talker.wait_heard(job, 5)
    worker = cluster.node.worker()
    assert worker is not None
    os.kill(worker, signal.SIGKILL)
    cluster.wait_adopted(job)
    talker.wait_heard(job, 5)
    check_whole(cluster, job, talker.finish(job))
    assert cluster.record(job).fence == fence
    cluster.wait_clean()


def test_a_job_that_ended_while_nobody_looked(start_cluster: Start, tmp_path: Path) -> None:
    """Its last words and its exit are kept for whoever comes."""
    cluster = start_cluster(**LONG)
    talker = Talker(cluster, tmp_path)
    job = talker.submit()
    assert cluster.node.process is not None
    os.kill(cluster.node.process.pid, signal.SIGSTOP)  # it would start a worker at once
    worker = cluster.node.worker()
    assert worker is not None
    child = cluster.node.pool_child()
    os.kill(worker, signal.SIGKILL)
    os.kill(child, signal.SIGKILL)
    talker.go.touch()
    over = talker.go.with_name("go.over")
    wait_until(over.exists, timeout=20, what="the job's own end")
    wait_until(lambda: not cluster.node.job_pids(), timeout=20, what="its process to be gone")
    os.kill(cluster.node.process.pid, signal.SIGCONT)
    check_whole(cluster, job, talker.finish(job))
    cluster.wait_clean()


def test_a_pause_of_which_the_record_knows_nothing(start_cluster: Start, tmp_path: Path) -> None:
    """The keeper has done what was asked, and its supervisor dies before that is written: nobody
    knows that the job stands still, and nobody would have it go on."""
    cluster = start_cluster(**LONG)
    talker = Talker(cluster, tmp_path)
    job = talker.submit()
    child, [pid] = cluster.node.pool_child(), cluster.node.job_pids()
    client = cluster.app.records.client
    order = cluster.settings.keys.control(cluster.record(job).node, job.id)
    with client.pipeline(transaction=True) as pipe:
        pipe.publish(order, json.dumps({"op": "pause"}))
        pipe.execute_command("CLIENT PAUSE", 30_000, "WRITE")
        heard, _ = pipe.execute()
    assert heard == 1

    def stands() -> bool:
        entry = procfs.process(pid)
        return entry is not None and entry.stopped

    def writers() -> set[str]:
        return {one["id"] for one in client.client_list() if "b" in one["flags"]}

    wait_until(stands, timeout=20, what="it to stand still")
    held: set[str] = set()
    wait_until(lambda: held.update(writers()) or held, timeout=20, what="its news to be held up")
    os.kill(child, signal.SIGKILL)
    wait_until(lambda: held - writers(), timeout=20, what="Redis to see that its writer has died")
    client.execute_command("CLIENT UNPAUSE")
    cluster.wait_adopted(job)
    assert cluster.record(job).state is JobState.RUNNING
    wait_until(lambda: not stands(), timeout=20, what="it to go on")
    check_whole(cluster, job, talker.finish(job))
    cluster.wait_clean()


def test_a_supervisor_that_only_stood_still_is_refused(
    start_cluster: Start, tmp_path: Path
) -> None:
    """It wakes up when its attempt is another's: it can neither write nor clear up."""
    cluster = start_cluster(**LONG)
    talker = Talker(cluster, tmp_path)
    job = talker.submit()
    worker, child = cluster.node.worker(), cluster.node.pool_child()
    assert worker is not None
    os.kill(child, signal.SIGSTOP)
    before = cluster.owner(job)
    # the record goes to another owner, as by a successor that this node knows nothing of
    client = cluster.app.records.client
    client.hset(cluster.settings.keys.job(job.id), "owner", "somebody-else")
    os.kill(child, signal.SIGCONT)
    wait_until(
        lambda: f"job.fenced job={job.id}" in logs(cluster), timeout=20, what="it to be refused"
    )
    assert before != cluster.owner(job) == "somebody-else"
    assert cluster.record(job).state is JobState.RUNNING
    cluster.wait_clean()


def logs(cluster: Cluster) -> str:
    return "".join(path.read_text() for path in cluster.node.paths.logs.glob("*.log"))


def test_chain_and_chord_go_on_after_it(start_cluster: Start, tmp_path: Path) -> None:
    cluster = start_cluster(**LONG)
    talker = Talker(cluster, tmp_path)

    def signature(job_id: str, config: dict[str, object]) -> object:
        given = {"job_id": job_id, **config}
        return cluster.app.signature(
            TRAIN, args=[given], task_id=job_id, immutable=True, app=cluster.app
        )

    true = {"command": ["true"]}
    first = signature("first", talker.config())
    result = chain(
        first, chord([signature("h1", true), signature("h2", true)], signature("body", true))
    )
    last = result.apply_async()
    job = AsyncResult("first", app=cluster.app)
    cluster.submitted += [job, last]
    wait_until(lambda: talker.heard(job) > 3, timeout=30, what="the first of the chain")
    os.kill(cluster.node.pool_child(), signal.SIGKILL)
    cluster.wait_adopted(job)
    talker.go.touch()
    assert last.get(timeout=60)["job_id"] == "body"
    assert cluster.record(job).attempt == 1
    cluster.wait_clean()


def test_another_job_waits_for_the_slot(start_cluster: Start, tmp_path: Path) -> None:
    """A slot whose attempt is to be adopted takes no other job, and loses none."""
    cluster = start_cluster(**LONG)
    talker = Talker(cluster, tmp_path)
    job = talker.submit()
    others = [cluster.submit({"command": ["true"]}) for _ in range(3)]
    os.kill(cluster.node.pool_child(), signal.SIGKILL)
    cluster.wait_adopted(job)
    assert {cluster.record(one).state for one in others} == {JobState.QUEUED}
    check_whole(cluster, job, talker.finish(job))
    for one in others:
        assert one.get(timeout=60)["attempt"] == 1
    cluster.wait_clean()


def test_redis_is_away_when_the_supervisor_dies(
    start_cluster: Start, server: RedisServer, tmp_path: Path
) -> None:
    """What was printed and not yet published is kept by the keeper."""
    cluster = start_cluster(**LONG)
    talker = Talker(cluster, tmp_path)
    job = talker.submit()
    server.kill()
    [pid] = cluster.node.job_pids()
    os.kill(cluster.node.pool_child(), signal.SIGKILL)
    server.start()
    cluster.wait_adopted(job)
    talker.wait_heard(job, 5)
    assert cluster.node.job_pids() == [pid]
    check_whole(cluster, job, talker.finish(job))
    cluster.wait_clean()


def test_a_cancel_that_came_meanwhile(start_cluster: Start, tmp_path: Path) -> None:
    from tasks.control import cancel

    cluster = start_cluster(**LONG)
    talker = Talker(cluster, tmp_path)
    job = talker.submit()
    os.kill(cluster.node.pool_child(), signal.SIGKILL)
    cancel(job.id, "enough", app=cluster.app)
    assert cluster.wait_state(job).state is JobState.CANCELLED
    cluster.wait_clean()


# a node that is stopped and started again


def test_a_node_is_upgraded_and_its_job_does_not_notice(
    start_cluster: Start, tmp_path: Path
) -> None:
    """For longer than its lease would hold, with another node that would take it."""
    cluster = start_cluster("node-a", lease_ttl=1.5, lease_grace=1.0)
    client = cluster.app.records.client
    talker = Talker(cluster, tmp_path)
    job = talker.submit()
    start_cluster("node-b", lease_ttl=1.5, lease_grace=1.0)
    [pid] = cluster.node.job_pids()
    assert cluster.node.leave() == 0
    began = client.time()[0]
    wait_until(lambda: client.time()[0] > began + 3, timeout=20, what="two leases' time to pass")
    assert cluster.node.job_pids() == [pid]
    cluster.node.start()
    cluster.wait_adopted(job)
    talker.wait_heard(job, 5)
    result = talker.finish(job)
    check_whole(cluster, job, result)
    assert result["node"] == "node-a"
    cluster.wait_clean()
    assert cluster.node.stop() == 0


def test_a_node_comes_back_with_fewer_slots(start_cluster: Start, tmp_path: Path) -> None:
    """What the others ran goes on, and they take nothing more."""
    cluster = start_cluster(slots=2, **LONG)
    talkers = [Talker(cluster, tmp_path / name) for name in ("one", "two")]
    for talker in talkers:
        talker.go.parent.mkdir()
    jobs = [talker.submit() for talker in talkers]
    slots = [cluster.owner(job).split("@")[0] for job in jobs]
    pids = cluster.node.job_pids()
    assert sorted(slots) == ["cpu0", "cpu1"]
    assert cluster.node.leave() == 0
    cluster.node.slots = 1
    cluster.node.start()
    for job in jobs:
        cluster.wait_adopted(job)
    assert cluster.node.job_pids() == pids
    third = cluster.shell("true")
    for slot in ("cpu1", "cpu0"):
        talker, job = talkers[slots.index(slot)], jobs[slots.index(slot)]
        result = talker.finish(job)
        check_whole(cluster, job, result)
        assert result["slot"] == slot
        if slot == "cpu1":
            wait_until(lambda: not cluster.node.paths.slot_record("cpu1").exists(), what="its end")
            assert cluster.record(third).state is JobState.QUEUED, "that slot is no more"
    assert third.get(timeout=60)["slot"] == "cpu0"
    cluster.wait_clean()


def test_a_node_is_cordoned_and_stopped_and_comes_back(
    start_cluster: Start, tmp_path: Path
) -> None:
    """It takes no new job, and goes on with its own."""
    cluster = start_cluster(**LONG)
    talker = Talker(cluster, tmp_path)
    job = talker.submit()
    assert cluster.node.command("cordon", cluster.node.name) == 0
    wait_until(lambda: "node cordoned" in cluster.node.said, what="the cordon")
    assert cluster.node.leave() == 0
    cluster.node.launch()
    cluster.wait_adopted(job)
    other = cluster.shell("true")
    result = talker.finish(job)
    check_whole(cluster, job, result)
    wait_until(lambda: not cluster.node.paths.slot_record("cpu0").exists(), what="its worker's end")
    assert cluster.record(other).state is JobState.QUEUED
    assert cluster.node.command("uncordon", cluster.node.name) == 0
    assert other.get(timeout=60)["slot"] == "cpu0"
    cluster.wait_clean()


def test_a_node_is_drained_while_it_is_away_and_comes_back(
    start_cluster: Start, tmp_path: Path
) -> None:
    """Its jobs have had their time: they go back to the queue, and end elsewhere."""
    cluster = start_cluster(**LONG)
    talker = Talker(cluster, tmp_path)
    job = talker.submit()
    assert cluster.node.leave() == 0
    assert cluster.node.job_pids()
    assert cluster.node.command("drain", cluster.node.name) == 0
    cluster.node.launch()
    assert cluster.wait_state(job, JobState.QUEUED).attempt == 0, "it does not count"
    cluster.wait_clean()
    wait_until(lambda: not cluster.node.paths.slot_record("cpu0").exists(), what="its worker's end")
    assert cluster.node.command("drain", cluster.node.name, "--wait") == 0
    other = start_cluster("node-b", **LONG)
    result = talker.finish(job)
    assert (result["node"], result["attempt"]) == (other.node.name, 1)


def test_a_worker_is_killed_while_its_node_waits_for_the_job(
    start_cluster: Start, tmp_path: Path
) -> None:
    """A drain lets jobs end, whatever becomes of their workers."""
    cluster = start_cluster(**LONG)
    talker = Talker(cluster, tmp_path)
    job = talker.submit()
    process, worker = cluster.node.process, cluster.node.worker()
    assert process is not None
    assert worker is not None
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: "node stopping" in cluster.node.said, what="the drain")
    os.kill(worker, signal.SIGKILL)
    cluster.wait_adopted(job)
    talker.go.touch()
    assert process.wait(30) == 0
    assert cluster.record(job).state is JobState.SUCCEEDED
    check_whole(cluster, job, job.get(timeout=10))
    cluster.wait_clean()


def test_the_command_that_stops_a_node(start_cluster: Start, tmp_path: Path) -> None:
    cluster = start_cluster(**LONG)
    talker = Talker(cluster, tmp_path)
    job = talker.submit()
    assert cluster.node.command("node", "stop") == 0
    assert cluster.node.process is not None
    assert cluster.node.process.wait(10) == 0
    assert cluster.node.job_pids()
    assert cluster.node.command("node", "stop") == 10, "there is none"
    cluster.node.start()
    cluster.wait_adopted(job)
    assert cluster.node.command("node", "stop", "--now") == 0
    assert not cluster.node.job_pids()
    assert cluster.record(job).state is JobState.QUEUED
    cluster.forget_hand_back(job)
    cluster.node.start()
    talker.go.touch()
    assert job.get(timeout=60)["attempt"] == 1, "a hand-back is no attempt"
    cluster.wait_clean()


def test_the_data_of_redis_is_wiped_just_before_a_node_stops(
    start_cluster: Start, tmp_path: Path
) -> None:
    """Nobody has found out yet: the stop does, and writes the records again."""
    cluster = start_cluster(slots=2, **LONG)
    quiet, loud = (Talker(cluster, tmp_path / name) for name in ("quiet", "loud"))
    for talker in (quiet, loud):
        talker.go.parent.mkdir()
    quiet.every = 0.5
    jobs = [talker.submit() for talker in (quiet, loud)]
    pids = cluster.node.job_pids()
    os.kill(pids[0], signal.SIGSTOP)  # it says nothing, so no news of it finds out either
    cluster.app.records.client.flushall()
    assert cluster.node.leave() == 0
    assert cluster.node.job_pids() == pids
    os.kill(pids[0], signal.SIGCONT)
    for job in jobs:
        assert cluster.record(job).state is JobState.RUNNING
    cluster.node.start()
    for job in jobs:
        cluster.wait_adopted(job)
    for talker, job in zip((quiet, loud), jobs, strict=True):
        assert talker.finish(job)["attempt"] == 1
    cluster.wait_clean()


def test_a_node_stops_while_redis_is_away(
    start_cluster: Start, server: RedisServer, tmp_path: Path
) -> None:
    """What a job says meanwhile waits with its keeper, and no stop waits for Redis."""
    cluster = start_cluster(**LONG)
    talker = Talker(cluster, tmp_path)
    job = talker.submit()
    pids = cluster.node.job_pids()
    server.freeze()
    try:
        assert cluster.node.leave(60) == 0
        assert cluster.node.job_pids() == pids
    finally:
        server.thaw()
    assert "attempt.left " in logs(cluster), "by its supervisor, who did not wait to be killed"
    cluster.node.start()
    cluster.wait_adopted(job)
    check_whole(cluster, job, talker.finish(job))
    cluster.wait_clean()


def test_a_node_that_does_not_come_back_in_time_loses_its_job(
    start_cluster: Start, tmp_path: Path
) -> None:
    away = {"timeouts": {"away": 1.0}}
    first = start_cluster("node-a", lease_ttl=1.5, lease_grace=1.0, extra=away)
    talker = Talker(first, tmp_path)
    job = talker.submit()
    second = start_cluster("node-b", lease_ttl=1.5, lease_grace=1.0)
    assert first.node.leave() == 0
    wait_until(lambda: second.node.job_pids(), timeout=30, what="it to run elsewhere")
    wait_until(lambda: not first.node.job_pids(), timeout=30, what="its end here")
    assert talker.finish(job)["node"] == "node-b"
    second.wait_clean()
    first.node.start()
    first.wait_clean()
