"""An attempt outlives its supervisor: the next goes on with it, and nobody sees a difference."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from celery import chain, chord
from celery.result import AsyncResult

from tasks.publishing import TRAIN
from tasks.state import JobState
from tests.support.cluster import Cluster
from tests.support.redis_server import RedisServer
from tests.support.talker import LONG, Talker, check_whole, logs
from tests.support.waiting import wait_until
from worker.keeper import procfs

pytestmark = pytest.mark.e2e

Start = Callable[..., Cluster]


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
