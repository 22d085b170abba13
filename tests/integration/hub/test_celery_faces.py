"""Jobs as Celery users know tasks, run by a real node."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chain, chord, group, states
from celery.exceptions import ChordError, TaskRevokedError
from celery.result import AsyncResult

from tasks import train
from tasks.errors import InvalidJob, JobConflict, JobFailed, JobRejected
from tasks.events import Log
from tasks.following import follow
from tasks.job import JobConfig
from tasks.routing import direct_queue, route
from tasks.state import JobState
from tests.conftest import Hub
from tests.integration.hub.support import job_config
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

WAIT = 30


def true(**fields: Any) -> dict[str, Any]:
    return {"command": ["true"], **fields}


def shell(script: str, **fields: Any) -> dict[str, Any]:
    return {"command": ["/bin/sh", "-c", script], **fields}


def fresh_id() -> str:
    return f"job-{uuid.uuid4().hex[:12]}"


def running(hub: Hub, job: AsyncResult) -> None:
    wait_until(lambda: hub.records.get(job.id).state is JobState.RUNNING, timeout=WAIT, what="run")


# one job


def test_delay_takes_a_dict_or_a_config_and_get_returns_the_result(node_hub: Hub) -> None:
    for config in (true(), JobConfig.parse(true())):
        job = train.delay(config)
        result = job.get(timeout=WAIT)
        assert job.state == states.SUCCESS
        assert (result["attempt"], result["slot"] in ("cpu0", "cpu1")) == (1, True)
        assert node_hub.records.get(job.id).result == result


def test_the_job_has_the_tasks_id_or_the_task_the_jobs(node_hub: Hub) -> None:
    job_id = fresh_id()
    assert train.delay(true(job_id=job_id)).id == job_id
    assert train.apply_async((true(),), task_id=f"{job_id}.b").id == f"{job_id}.b"
    assert train.s(true(job_id=f"{job_id}.c")).apply_async().id == f"{job_id}.c"
    assert node_hub.app.send_task("tasks.train", [true(job_id=f"{job_id}.d")]).id == f"{job_id}.d"
    assert train.apply_async(kwargs={"config": true(job_id=f"{job_id}.e")}).id == f"{job_id}.e"
    for letter in "bcde":
        assert AsyncResult(f"{job_id}.{letter}").get(timeout=WAIT)["job_id"] == f"{job_id}.{letter}"
    with pytest.raises(InvalidJob, match="differ; a job has one id"):
        train.apply_async((true(job_id=job_id),), task_id="other")


def test_the_same_job_twice_is_one_job(node_hub: Hub, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    config = shell(f"echo run >> {trace}", job_id=fresh_id())
    first, second = train.delay(config), train.delay(config)
    assert first.get(timeout=WAIT) == second.get(timeout=WAIT)
    assert train.delay(config).get(timeout=WAIT)["attempt"] == 1  # and when it has ended
    train.delay(true()).get(timeout=WAIT)  # by then the duplicates have been looked at
    assert trace.read_text() == "run\n"
    with pytest.raises(JobConflict, match="with another configuration"):
        train.delay({**config, "epochs": 2})


def test_the_states_that_celery_shows(node_hub: Hub, tmp_path: Path) -> None:
    go = tmp_path / "go"
    said = '{"type":"progress","epoch":1,"total_epochs":4,"loss":0.5}'
    script = f"echo '{said}'; while [ ! -e {go} ]; do sleep 0.02; done"
    job = train.delay(shell(script))
    wait_until(lambda: job.state == "PROGRESS", timeout=WAIT, what="progress")
    assert job.info == {"epoch": 1, "total_epochs": 4, "progress": 0.25, "loss": 0.5}
    assert not job.ready()
    go.touch()
    job.get(timeout=WAIT)
    assert job.successful()


def test_get_raises_what_failed(node_hub: Hub) -> None:
    job = train.delay(shell("echo it broke >&2; exit 3"))
    with pytest.raises(JobFailed, match="user_error: exited with 3; its last words: it broke"):
        job.get(timeout=WAIT)
    assert (job.state, job.result.reason) == (states.FAILURE, "user_error")
    assert job.failed()


def test_get_raises_what_was_rejected(node_hub: Hub) -> None:
    job = train.delay(true(dataset_uri="file:///etc/passwd"))
    with pytest.raises(JobRejected) as caught:
        job.get(timeout=WAIT)
    assert caught.value.reason == "dataset_unavailable"
    assert node_hub.records.get(job.id).state is JobState.REJECTED


def test_a_node_can_be_named(node_hub: Hub) -> None:
    job = train.apply_async((true(),), queue=direct_queue("node-a"))
    assert job.get(timeout=WAIT)["node"] == "node-a"
    assert node_hub.records.get(job.id).queue == "to.node-a"


# canvas


def test_a_group(node_hub: Hub) -> None:
    ids = [fresh_id() for _ in range(3)]
    results = group(train.s(true(job_id=one)) for one in ids).apply_async()
    assert [one["job_id"] for one in results.get(timeout=WAIT)] == ids


def test_a_chain_runs_in_order(node_hub: Hub, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    steps = [shell(f"echo {number} >> {trace}", job_id=fresh_id()) for number in range(3)]
    job = chain(train.si(step) for step in steps).apply_async()
    assert job.id == steps[-1]["job_id"]
    assert job.get(timeout=WAIT)["job_id"] == steps[-1]["job_id"]
    assert trace.read_text() == "0\n1\n2\n"
    assert job.parent.parent.id == steps[0]["job_id"]
    assert (train.s(true()) | train.si(true())).apply_async().get(timeout=WAIT)["attempt"] == 1


def test_a_chain_stops_at_a_job_that_fails(node_hub: Hub) -> None:
    last = fresh_id()
    job = chain(train.si(shell("exit 1")), train.si(true(job_id=last))).apply_async()
    with pytest.raises(JobFailed, match="exited with 1"):
        job.get(timeout=WAIT)
    assert not node_hub.client.exists(node_hub.keys.job(last))


def test_a_chord(node_hub: Hub) -> None:
    body = true(job_id=fresh_id())
    job = chord([train.s(true()) for _ in range(3)])(train.si(body))
    assert job.get(timeout=WAIT)["job_id"] == body["job_id"]


def test_a_group_after_a_job_and_a_job_after_a_group(node_hub: Hub) -> None:
    steps = chain(train.s(true()), group(train.si(true()), train.si(true())), train.si(true()))
    assert steps.apply_async().get(timeout=WAIT)["attempt"] == 1


def test_a_chord_with_a_job_that_fails(node_hub: Hub) -> None:
    job = chord([train.s(true()), train.s(shell("exit 4"))])(train.si(true()))
    with pytest.raises((ChordError, JobFailed), match="exited with 4"):
        job.get(timeout=WAIT)


def test_a_chord_with_a_job_that_is_cancelled_in_its_queue(node_hub: Hub) -> None:
    nobody = true(required_device="cuda", job_id=fresh_id())
    job = chord([train.s(true()), train.s(nobody)])(train.si(true()))
    AsyncResult(nobody["job_id"]).revoke()
    with pytest.raises((ChordError, TaskRevokedError)):
        job.get(timeout=WAIT)


def test_a_link_is_called_and_an_error_callback_too(node_hub: Hub) -> None:
    done, failed = true(job_id=fresh_id()), true(job_id=fresh_id())
    train.apply_async((true(),), link=train.si(done)).get(timeout=WAIT)
    assert AsyncResult(done["job_id"]).get(timeout=WAIT)["attempt"] == 1
    train.apply_async((shell("exit 1"),), link_error=train.si(failed))
    wait_until(lambda: node_hub.client.exists(node_hub.keys.job(failed["job_id"])), timeout=WAIT)
    assert AsyncResult(failed["job_id"]).get(timeout=WAIT)["attempt"] == 1


# the end of a job that nobody runs


def test_revoking_a_queued_job_cancels_it(node_hub: Hub) -> None:
    job = train.delay(true(required_device="cuda"))
    job.revoke()
    with pytest.raises(TaskRevokedError):
        job.get(timeout=WAIT)
    assert job.state == states.REVOKED
    assert node_hub.records.get(job.id).state is JobState.CANCELLED
    assert node_hub.client.hget(node_hub.keys.job(job.id), "result_stored") == "1"


@pytest.mark.parametrize("terminate", [False, True])
def test_revoking_a_running_job_cancels_it(node_hub: Hub, terminate: bool) -> None:
    job = train.delay(shell("sleep 60"))
    running(node_hub, job)
    node_hub.app.control.revoke(job.id, terminate=terminate)
    with pytest.raises(TaskRevokedError):
        job.get(timeout=WAIT)
    record = node_hub.records.get(job.id)
    assert (record.state, record.attempt) == (JobState.CANCELLED, 1)
    node_hub.app.control.revoke(job.id)  # once more, now that it is over
    assert node_hub.records.get(job.id).state is JobState.CANCELLED


def test_a_job_that_nobody_starts_in_time(node_hub: Hub) -> None:
    by_config = train.delay(true(required_device="cuda", expires=0.1))
    by_option = train.apply_async((true(required_device="cuda"),), expires=0.1)
    for job in (by_config, by_option):
        with pytest.raises(JobFailed, match="timeout: not started before its expiry"):
            job.get(timeout=WAIT)
        assert node_hub.records.get(job.id).spec["expires"] == 0.1


# producers that have no `tasks`


def test_a_program_with_nothing_but_celery(node_hub: Hub) -> None:
    """It names the queue itself; the node that gets the message records the job."""
    app = Celery("theirs", broker=node_hub.settings.celery_url, set_as_current=False)
    transport = {"global_keyprefix": node_hub.settings.prefix}
    app.conf.update(
        result_backend=node_hub.settings.celery_url,
        broker_transport_options=transport,
        result_backend_transport_options=transport,
    )
    queue = route(job_config()).queue
    job = app.send_task("tasks.train", [shell("echo hello")], queue=queue)
    assert job.get(timeout=WAIT)["job_id"] == job.id
    said = [one.event for one in follow(job.id, settings=node_hub.settings, timeout=WAIT)]
    assert [one.lines for one in said if isinstance(one, Log)] == [("hello",)]
    wrong = app.send_task("tasks.train", [{"epochs": 0}], queue=queue)
    with pytest.raises(Exception, match="the message holds no readable job"):
        wrong.get(timeout=WAIT)
    app.close()


# after all this


def test_every_key_is_the_projects_and_every_jobs_keys_end(node_hub: Hub) -> None:
    keys = (node_hub.keys.untold, node_hub.keys.unacked, node_hub.keys.unacked_index)
    wait_until(lambda: not node_hub.client.exists(*keys), timeout=WAIT, what="told")
    lasting = set()
    for key in node_hub.client.scan_iter(count=1000):
        assert key.startswith(node_hub.settings.prefix), key
        if node_hub.client.ttl(key) == -1:
            lasting.add(key.removeprefix(node_hub.settings.prefix).split(":")[0])
    # the indexes, what the workers declared, and messages of jobs that ended in a queue that
    # nobody reads
    assert lasting <= {"queues", "nodes"} | {
        one for one in lasting if one.startswith(("_kombu.binding", "work.0-"))
    }
