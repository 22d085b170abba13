"""Celery hears of every end, although the worker that ended the job died before it told.

The jobs wait in a queue that no node reads; the test plays the worker that has them.
"""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from celery import chain, chord, states
from celery.exceptions import ChordError, TaskRevokedError
from celery.result import AsyncResult

from tasks import events, train
from tasks.errors import JobFailed, JobRejected
from tasks.routing import route
from tasks.state import FailureReason, JobState
from tasks.telling import tell
from tasks.training import _delivery
from tests.conftest import Hub
from tests.integration.hub.support import claim, finish, job_config
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

WAIT = 30


def unread(**fields: Any) -> dict[str, Any]:
    return {
        "command": ["true"],
        "required_device": "cuda",
        "job_id": f"job-{uuid.uuid4().hex[:12]}",
        **fields,
    }


def read(**fields: Any) -> dict[str, Any]:
    return unread(**{"required_device": "any", **fields})


def end(hub: Hub, job_id: str, state: JobState, **how: Any) -> None:
    """As a worker that writes the end into the record, and dies."""
    finish(hub.records, claim(hub.records, job_id), events.Failed(), state=state, **how)


def fail(hub: Hub, job_id: str, state: JobState = JobState.FAILED) -> None:
    end(hub, job_id, state, reason=FailureReason.STALLED, message="it hung", result={})


def due(hub: Hub, job_id: str) -> None:
    """As if it had long been untold: the node's reaper sees to it."""
    assert hub.client.zadd(hub.keys.untold, {job_id: 1}, xx=True, ch=True)


def told(hub: Hub, job_id: str) -> bool:
    return hub.client.hget(hub.keys.job(job_id), "result_stored") == "1"


def test_a_failure(node_hub: Hub) -> None:
    job = train.delay(unread())
    fail(node_hub, job.id)
    due(node_hub, job.id)
    with pytest.raises(JobFailed, match="stalled: it hung"):
        job.get(timeout=WAIT)
    wait_until(lambda: told(node_hub, job.id), what="marked")
    assert not node_hub.client.zscore(node_hub.keys.untold, job.id)


def test_a_rejection_and_a_cancel(node_hub: Hub) -> None:
    rejected, cancelled = train.delay(unread()), train.delay(unread())
    fail(node_hub, rejected.id, JobState.REJECTED)
    end(node_hub, cancelled.id, JobState.CANCELLED)
    due(node_hub, rejected.id)
    due(node_hub, cancelled.id)
    with pytest.raises(JobRejected):
        rejected.get(timeout=WAIT)
    with pytest.raises(TaskRevokedError):
        cancelled.get(timeout=WAIT)


def test_a_success_is_told_by_a_worker_and_its_chain_goes_on(node_hub: Hub) -> None:
    first = unread()
    job = chain(train.si(first), train.si(read())).apply_async()
    end(node_hub, first["job_id"], JobState.SUCCEEDED, result={"ok": 7})
    # what is pushed again goes to a queue that the node reads
    queue = route(job_config()).queue
    node_hub.client.hset(node_hub.keys.job(first["job_id"]), "queue", queue)
    due(node_hub, first["job_id"])
    assert job.get(timeout=WAIT)["attempt"] == 1
    assert AsyncResult(first["job_id"]).get(timeout=WAIT) == {"ok": 7}
    wait_until(lambda: told(node_hub, first["job_id"]), what="marked")


@pytest.mark.parametrize("follows", ["chain", "callbacks", "chord"])
def test_a_result_that_something_follows_is_not_stored_with_the_end(
    node_hub: Hub, follows: str
) -> None:
    """A result that stands there says that what follows was published: Celery does that first."""
    for more, is_stored in (({}, True), ({follows: [{"task": "next"}]}, False)):
        train.push_request(id="a", callbacks=None, chain=None, chord=None)
        train.request.update(more)
        try:
            found = _delivery(train, {}).meta({"metrics": {}})
        finally:
            train.pop_request()
        assert (found is not None) is is_stored


def test_a_failure_fails_its_chain_and_calls_back(node_hub: Hub) -> None:
    first, called = unread(), read()
    job = chain(train.si(first), train.si(read()))
    job.link_error(train.si(called))
    last = job.apply_async()
    fail(node_hub, first["job_id"])
    due(node_hub, first["job_id"])
    with pytest.raises(JobFailed, match="it hung"):
        last.get(timeout=WAIT)
    wait_until(lambda: node_hub.client.exists(node_hub.keys.job(called["job_id"])), timeout=WAIT)


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED])
def test_a_chord_is_told_of_the_job_it_waits_for(node_hub: Hub, state: JobState) -> None:
    lost = unread()
    job = chord([train.si(read()), train.si(lost)])(train.si(read()))
    fail(node_hub, lost["job_id"], state)
    due(node_hub, lost["job_id"])
    with pytest.raises((ChordError, JobFailed, TaskRevokedError)):
        job.get(timeout=WAIT)


def test_a_result_that_was_stored_and_not_counted_is_counted(node_hub: Hub) -> None:
    """The worker died between storing the result and telling the chord."""
    part = unread()
    job = chord([train.si(read()), train.si(part)])(train.si(read()))
    end(node_hub, part["job_id"], JobState.SUCCEEDED, result={"ok": 1})
    node_hub.app.backend.store_result(part["job_id"], {"ok": 1}, states.SUCCESS)
    due(node_hub, part["job_id"])
    assert job.get(timeout=WAIT)["attempt"] == 1


def test_a_failure_that_was_stored_and_not_passed_on_is_passed_on(node_hub: Hub) -> None:
    """The worker died between storing the result and failing the chain and calling back."""
    first, called = unread(), read()
    job = chain(train.si(first), train.si(read()))
    job.link_error(train.si(called))
    last = job.apply_async()
    fail(node_hub, first["job_id"])
    error = JobFailed("stalled", "it hung")
    node_hub.app.backend.store_result(first["job_id"], error, states.FAILURE)
    due(node_hub, first["job_id"])
    with pytest.raises(JobFailed, match="it hung"):
        last.get(timeout=WAIT)
    wait_until(lambda: node_hub.client.exists(node_hub.keys.job(called["job_id"])), timeout=WAIT)
    wait_until(lambda: told(node_hub, first["job_id"]), what="marked")


def test_what_follows_a_job_is_published_once_redis_is_back(
    node_hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    """Else Celery takes the refusal for a failure of the job that has succeeded."""
    publish = train.si(read()).apply_async
    with ThreadPoolExecutor(1) as pool:
        node_hub.server.kill()
        try:
            sent = pool.submit(node_hub.app.amqp._retry_publish, publish)
            wait_until(lambda: "publishing.put_off" in caplog.text, timeout=WAIT)
            assert not sent.done()
        finally:
            node_hub.server.start()
        assert sent.result(timeout=WAIT).get(timeout=WAIT)["attempt"] == 1


def test_what_was_told_is_left_alone(node_hub: Hub) -> None:
    job = train.delay(unread())
    tell(node_hub.app, job.id)  # it has not ended
    assert job.state == states.PENDING
    fail(node_hub, job.id)
    node_hub.records.mark_result_stored(job.id)
    tell(node_hub.app, job.id)
    assert job.state == states.PENDING
    tell(node_hub.app, "never-heard-of")


def test_an_unreadable_message_does_not_keep_the_end_from_being_told(node_hub: Hub) -> None:
    for broken in ("", "{", '{"headers": {}, "body": "!"}'):
        job = train.delay(unread())
        end(node_hub, job.id, JobState.SUCCEEDED, result={"ok": 1})
        node_hub.client.hset(node_hub.keys.job(job.id), mapping={"message": broken, "tag": "none"})
        tell(node_hub.app, job.id)
        if not broken:  # with nothing to push, the result is all that can be told
            assert job.get(timeout=WAIT) == {"ok": 1}
        failed = train.delay(unread())
        fail(node_hub, failed.id)
        node_hub.client.hset(node_hub.keys.job(failed.id), "message", broken)
        tell(node_hub.app, failed.id)
        with pytest.raises(JobFailed):
            failed.get(timeout=WAIT)
