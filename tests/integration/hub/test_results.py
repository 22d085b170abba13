"""Waiting for a result while Redis comes and goes. The test stores the results itself."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from celery.app.task import Context
from celery.exceptions import TimeoutError as NotInTime
from celery.result import AsyncResult, GroupResult

from tasks import train
from tasks.celery import make_app
from tasks.control import cancel
from tasks.errors import NodeUntrusted, NotSigned, RedisUnavailable, UnknownResult
from tasks.recorded import Claimed
from tasks.roots import TrustRoot
from tasks.settings import Settings
from tasks.state import JobState
from tasks.trust import SigningKey
from tasks.vouching import PROOF, End, Signer
from tests.conftest import Hub
from tests.integration.hub.support import finish, try_claim
from tests.support.redis_server import free_port
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

TRUE: dict[str, Any] = {"command": ["true"]}
WAIT = 30.0


class Waiting:
    """A thread that waits for a result."""

    def __init__(self, get: Callable[[], Any]) -> None:
        self.found: Any = None
        self._get = get
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.found = self._get()
        except BaseException as error:
            self.found = error

    def result(self) -> Any:
        self._thread.join(WAIT)
        assert not self._thread.is_alive()
        return self.found


def store(hub: Hub, job: AsyncResult) -> None:
    """As a worker does."""
    app = make_app(hub.settings, include=())
    app.backend.mark_as_done(job.id, {"ok": job.id})
    app.close()


def subscribed(hub: Hub) -> bool:
    return bool(hub.client.pubsub_channels(f"{hub.settings.prefix}celery-task-meta-*"))


@pytest.mark.parametrize("count", [1, 3])
def test_a_wait_outlives_outages(hub: Hub, count: int) -> None:
    """Celery has a group waited for by the thread that published it."""
    jobs = [train.delay(TRUE) for _ in range(count)]

    def outages_and_results() -> None:
        for _ in range(2):
            wait_until(lambda: subscribed(hub), timeout=WAIT, what="subscribed")
            hub.server.stop()
            hub.server.start()
        for job in jobs:
            store(hub, job)

    other = Waiting(outages_and_results)
    wait: Any = jobs[0] if count == 1 else GroupResult("a-group", jobs)
    results = [{"ok": job.id} for job in jobs]
    assert wait.get(timeout=WAIT) == (results[0] if count == 1 else results)
    assert other.result() is None


def test_nobody_is_handed_a_result_before_it_is_proven(hub: Hub) -> None:
    node = Signer(SigningKey.generate(), "node-a", "cpu0")
    root = TrustRoot(nodes={"node-a": (node.key.public,)})
    called: list[Any] = []

    def hand_out(job_id: str, value: Any) -> None:
        called.append(value)

    job = train.delay(TRUE)
    result = {"ok": job.id}
    store(hub, job)
    for propagate in (True, False):
        with pytest.raises(NotSigned):
            job.get(WAIT, propagate, trust=root, callback=hand_out)
        with pytest.raises(NotSigned):
            job.get(WAIT, propagate, 0.5, True, True, hand_out, trust=root)  # as Celery has it
        assert job._cache is None
    with pytest.raises(ValueError, match="on_message"):
        job.get(WAIT, trust=root, on_message=called.append)
    assert called == []

    claimed = try_claim(hub.records, job.id)
    assert isinstance(claimed, Claimed)
    proof = node.proof(claimed, End(state=JobState.SUCCEEDED, result=result))
    finish(hub.records, claimed.lease, result=result, snapshot={PROOF: proof})
    assert job.get(WAIT, trust=root, callback=hand_out, on_message=None) == result
    assert called == [result]
    with pytest.raises(NodeUntrusted):
        job.get(WAIT, trust=TrustRoot(), callback=hand_out)
    assert job._cache is None
    assert called == [result]


def test_a_result_that_comes_while_the_channel_is_cut(hub: Hub) -> None:
    job = train.delay(TRUE)
    waiting = Waiting(lambda: job.get(timeout=WAIT))
    wait_until(lambda: subscribed(hub), timeout=WAIT, what="subscribed")
    hub.client.client_kill_filter(_type="pubsub")
    store(hub, job)
    assert waiting.result() == {"ok": job.id}


def test_a_wait_has_its_time_and_no_more(hub: Hub) -> None:
    job = train.delay(TRUE)
    with pytest.raises(NotInTime):
        job.get(timeout=0.2)
    waiting = Waiting(lambda: job.get(timeout=1.0))
    wait_until(lambda: subscribed(hub), timeout=WAIT, what="subscribed")
    hub.server.stop()
    assert isinstance(waiting.result(), RedisUnavailable | NotInTime)


@pytest.mark.parametrize("url", ["redis://:secret@127.0.0.1:{port}/0", "unix:///nowhere/r.sock"])
def test_a_redis_that_refuses_is_named_soon(url: str) -> None:
    settings = Settings(redis_url=url.format(port=free_port()))
    app = make_app(settings, include=())
    for look in (
        lambda: app.AsyncResult("one").state,
        lambda: app.AsyncResult("one").ready(),
        lambda: app.AsyncResult("one").get(timeout=60),
        lambda: app.AsyncResult("one").get(),
        lambda: app.GroupResult("all", [app.AsyncResult("one")]).get(),
    ):
        began = time.monotonic()
        with pytest.raises(RedisUnavailable, match="cannot use Redis at") as caught:
            look()
        assert time.monotonic() - began < 3  # the contract
        assert "secret" not in str(caught.value)
    app.close()


def test_what_is_read_beside_a_wait_does_not_wait(hub: Hub) -> None:
    job = train.delay(TRUE)
    assert job.state == "PENDING"
    hub.server.stop()
    with pytest.raises(RedisUnavailable):
        _ = job.state


def test_a_success_is_not_taken_back_and_all_else_is(hub: Hub) -> None:
    job = train.delay(TRUE)
    backend = train.app.backend
    for state, result in (("STARTED", {}), ("FAILURE", ValueError("no")), ("SUCCESS", {"ok": 1})):
        backend.store_result(job.id, result, state)
        assert AsyncResult(job.id, app=train.app).state == state
    backend.store_result(job.id, ValueError("a duplicate"), "FAILURE")
    backend.store_result(job.id, {}, "STARTED")
    assert job.get(timeout=WAIT) == {"ok": 1}
    assert hub.client.ttl(backend.get_key_for_task(job.id)) > 0


def test_who_has_lost_a_job_does_not_say_that_it_gets_on_when_it_is_over(hub: Hub) -> None:
    """A supervisor that stood still meanwhile: nobody would hear of the end any more."""
    backend, cancelled, failed = train.app.backend, train.delay(TRUE), train.delay(TRUE)
    for state in ("STARTED", "PROGRESS"):
        backend.store_result(failed.id, {}, state)
        assert AsyncResult(failed.id, app=train.app).state == state
    cancel(cancelled.id)
    backend.store_result(failed.id, ValueError("no"), "FAILURE")
    backend.store_result("without a record", ValueError("no"), "FAILURE")
    untold = train.delay(TRUE)
    hub.records.cancel(untold.id, "")
    ends = {cancelled.id: "REVOKED", failed.id: "FAILURE", "without a record": "FAILURE"}
    for job, end in {**ends, untold.id: "PENDING"}.items():
        backend.store_result(job, {}, "PROGRESS")
        backend.store_result(job, {}, "STARTED")
        assert AsyncResult(job, app=train.app).state == end
    backend.mark_as_revoked(untold.id)
    assert AsyncResult(untold.id, app=train.app).state == "REVOKED"


@pytest.mark.parametrize(
    ("state", "chord", "marks"),
    [
        ("SUCCESS", None, True),
        ("FAILURE", None, True),
        ("STARTED", None, False),
        ("SUCCESS", {"task": "a.callback"}, False),  # the chord is not told yet
    ],
)
def test_what_celery_is_told_is_marked_in_the_same_step(
    hub: Hub, state: str, chord: object, marks: bool
) -> None:
    job = train.delay(TRUE)
    hub.client.zadd(hub.keys.untold, {job.id: 1})
    result = ValueError("no") if state == "FAILURE" else {}
    train.app.backend.store_result(job.id, result, state, request=Context(chord=chord))
    marked = hub.client.hget(hub.keys.job(job.id), "result_stored") == "1"
    due = hub.client.zscore(hub.keys.untold, job.id) is not None
    assert (marked, due) == (marks, not marks)


def test_a_task_without_a_record_gets_none(hub: Hub) -> None:
    train.app.backend.store_result("another", 1, "SUCCESS", request=Context())
    assert AsyncResult("another", app=train.app).get(timeout=WAIT) == 1
    assert not hub.client.exists(hub.keys.job("another"))


@pytest.mark.parametrize(
    "stored",
    [
        {"status": "SUCCESS", "result": {"ok": 1}, "cyxwiz_v": 2},
        {"status": "SUCCESS", "result": {"ok": 1}, "cyxwiz_v": True},
        {"status": "SUCCESS", "result": {"ok": 1}, "cyxwiz_v": "1"},
        {"status": 5, "result": {"ok": 1}},
        {"result": {"ok": 1}},
        ["SUCCESS"],
        "SUCCESS",
    ],
    ids=str,
)
def test_a_result_of_another_version_is_refused(hub: Hub, stored: Any) -> None:
    job = train.delay(TRUE)
    key = f"{hub.settings.prefix}celery-task-meta-{job.id}"
    hub.client.set(key, json.dumps(stored))
    with pytest.raises(UnknownResult):
        job.get(timeout=WAIT)


def test_a_result_says_its_version_and_one_without_is_the_first(hub: Hub) -> None:
    job = train.delay(TRUE)
    key = f"{hub.settings.prefix}celery-task-meta-{job.id}"
    store(hub, job)
    stored = json.loads(hub.client.get(key))
    assert stored.pop("cyxwiz_v") == 1
    hub.client.set(key, json.dumps(stored))
    assert job.get(timeout=WAIT) == {"ok": job.id}
