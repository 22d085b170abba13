"""What a producer may say, and what becomes of it in Redis. Nobody runs the jobs here."""

from __future__ import annotations

import base64
import json
import threading
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from celery import chain, chord, group
from celery.canvas import Signature
from celery.exceptions import Reject
from celery.signals import before_task_publish

from tasks import train
from tasks.celery import make_app
from tasks.control import Ask, NotRunning, ask, cancel
from tasks.errors import InvalidJob, RedisUnavailable, UnknownJob
from tasks.following import follow
from tasks.routing import route
from tasks.settings import Settings
from tasks.state import JobState
from tests.conftest import Hub
from tests.integration.hub.support import job_config, messages
from tests.support.redis_server import free_port
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

TRUE: dict[str, Any] = {"command": ["true"]}
MOST_S = 3.0  # the contract, and a bound that a loaded machine keeps


def jobs(hub: Hub) -> int:
    return len([key for key in hub.client.scan_iter() if key.startswith(hub.keys.job(""))])


# what is refused


@pytest.mark.parametrize(
    "publish",
    [
        lambda config: train.delay(config),
        lambda config: train.apply_async((config,)),
        lambda config: train.apply_async(kwargs={"config": config}),
        lambda config: train.s(config),
        lambda config: train.si(config),
        lambda config: train.signature((config,)),
        lambda config: train.subtask((config,)),
        lambda config: group([train.s(config), train.s(TRUE)]),
        lambda config: chain(train.si(TRUE), train.si(config)),
        lambda config: chord([train.s(config)])(train.si(TRUE)),
    ],
)
def test_a_wrong_job_raises_at_the_producer_whichever_way_it_is_said(
    hub: Hub, publish: Any
) -> None:
    with pytest.raises(InvalidJob, match="epochs: must be greater than or equal to 1"):
        publish({**TRUE, "epochs": 0})
    assert jobs(hub) == 0


def test_send_task_raises_at_the_producer_too(hub: Hub) -> None:
    with pytest.raises(InvalidJob, match="epochs"):
        hub.app.send_task("tasks.train", [{**TRUE, "epochs": 0}])
    with pytest.raises(InvalidJob, match="takes one argument, the job's configuration, and got 0"):
        hub.app.send_task("tasks.train")
    assert jobs(hub) == 0


@pytest.mark.parametrize(
    "piped",
    [
        lambda: train.s(TRUE) | train.s(TRUE),
        lambda: chain(train.si(TRUE), train.si(TRUE), train.s(TRUE)),
        lambda: chain(train.s(TRUE), group(train.si(TRUE), train.s(TRUE))),
        lambda: chain(train.s(TRUE), group(train.s(TRUE), train.s(TRUE)), train.si(TRUE)),
        lambda: chord([train.s(TRUE)], train.s(TRUE)),
        lambda: chord([train.s(TRUE)], chain(train.s(TRUE), train.si(TRUE))),
        lambda: train.s(TRUE).set(link=[train.s(TRUE)]),
        lambda: train.s(TRUE).set(link_error=[train.s(TRUE)]),
    ],
)
def test_a_result_that_would_be_piped_into_a_job_is_refused_with_a_hint(
    hub: Hub, piped: Any
) -> None:
    with pytest.raises(InvalidJob, match=r"write train\.si\(config\)"):
        piped().apply_async()
    assert jobs(hub) == 0
    with pytest.raises(InvalidJob, match=r"write train\.si\(config\)"):
        train.apply_async(({"a": "result"}, TRUE))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"countdown": 5}, "countdown is no option for a job: a job is queued at once"),
        ({"eta": datetime.now(UTC)}, "eta is no option"),
        ({"time_limit": 5}, "time_limit is no option for a job: say timeout_seconds"),
        ({"soft_time_limit": 5}, "soft_time_limit is no option"),
        ({"exchange": "x", "routing_key": "y"}, "exchange is no option"),
        ({"queue": "celery"}, "queue 'celery': no node reads it"),
        ({"priority": "high"}, "priority is 'high'; a whole number from 0"),
        ({"expires": -1}, "expires: "),
    ],
)
def test_options_that_would_harm_a_job_are_refused(
    hub: Hub, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(InvalidJob, match=says):
        train.apply_async((TRUE,), **options)
    if "expires" not in options:  # Celery itself refuses what is in the past
        with pytest.raises(InvalidJob):
            hub.app.send_task("tasks.train", [TRUE], **options)
    with pytest.raises(InvalidJob):
        train.s(TRUE).set(**options).apply_async()
    assert jobs(hub) == 0


def test_an_expiry_said_twice_is_refused(hub: Hub) -> None:
    with pytest.raises(InvalidJob, match=r"the configuration says 5\.0 and the option 6"):
        train.apply_async(({**TRUE, "expires": 5},), expires=6)


@pytest.mark.parametrize("way", ["apply", "map", "starmap", "chunks"])
def test_ways_that_are_none_say_what_to_do(way: str) -> None:
    with pytest.raises(InvalidJob, match="use "):
        getattr(train, way)([TRUE])


def test_a_job_called_as_a_function_runs_nowhere() -> None:
    with pytest.raises(Reject, match="no node"):
        train(TRUE)


# what is written


def test_a_message_is_published_as_recorded(hub: Hub) -> None:
    """But for what kombu says of the one delivery."""
    job = train.apply_async(
        ({**TRUE, "priority": "high"},), link=train.si({**TRUE, "job_id": "next"})
    )
    (sent,) = messages(hub.records, job.id)
    kept = json.loads(hub.client.hget(hub.keys.job(job.id), "message"))
    assert hub.client.hget(hub.keys.job(job.id), "tag") == kept["properties"].pop("delivery_tag")
    assert sent["properties"].pop("delivery_tag")
    assert kept == sent
    assert sent["properties"]["priority"] == 3


def test_a_jobs_priority_is_its_messages(hub: Hub) -> None:
    for name, step in {"critical": 0, "high": 3, "normal": 6, "low": 9}.items():
        config = {**TRUE, "priority": name}
        for job in (
            train.delay(config),
            train.si(config).apply_async(),
            hub.app.send_task("tasks.train", [config]),
        ):
            assert hub.client.hget(hub.keys.job(job.id), "priority") == str(step)
            assert messages(hub.records, job.id)[0]["properties"]["priority"] == step


@pytest.mark.parametrize(("priority", "step"), [(0, 0), (2, 0), (3, 3), (5, 3), (8, 6), (99, 9)])
def test_a_priority_of_celerys_becomes_a_step(hub: Hub, priority: int, step: int) -> None:
    job = train.apply_async((TRUE,), priority=priority)
    assert hub.client.hget(hub.keys.job(job.id), "priority") == str(step)
    assert len(messages(hub.records, job.id)) == 1


@pytest.mark.parametrize("expires", [30, 30.5, datetime(2030, 1, 1, tzinfo=UTC)])
def test_celerys_expiry_is_the_jobs(hub: Hub, expires: Any) -> None:
    for job in (
        train.apply_async((TRUE,), expires=expires),
        train.s(TRUE).set(expires=expires).apply_async(),
        hub.app.send_task("tasks.train", [TRUE], expires=expires),
    ):
        assert hub.records.get(job.id).spec["expires"]
        assert hub.client.zscore(hub.keys.expiring, job.id) > time.time() * 1000
        assert messages(hub.records, job.id)[0]["headers"]["expires"] is None


def test_a_time_before_all_times_has_passed(hub: Hub) -> None:
    for moment in ("1960-01-01T00:00:00Z", "1970-01-01T00:00:00Z"):
        job = train.delay({**TRUE, "expires": moment})
        assert hub.client.zscore(hub.keys.expiring, job.id) == 1


def test_a_signature_survives_the_wire(hub: Hub) -> None:
    made = Signature.from_dict(json.loads(json.dumps(train.si({**TRUE, "job_id": "one"}))))
    assert made.apply_async().id == "one"
    assert hub.records.get("one").queue == route(job_config()).queue


def test_another_task_on_the_app_is_none_of_ours(hub: Hub) -> None:
    app = make_app(hub.settings, include=())
    app.send_task("other.task", [1, 2])
    assert hub.client.llen(hub.keys.message_list("unrouted", 0)) == 1
    assert jobs(hub) == 0
    app.close()


# asking


def test_asking_and_cancelling_what_is_not_there(hub: Hub) -> None:
    for what in (
        lambda: cancel("none"),
        lambda: ask("none", Ask.PAUSE),
        lambda: next(follow("no")),
    ):
        with pytest.raises(UnknownJob):
            what()
    job = train.delay(TRUE)
    with pytest.raises(NotRunning, match="is queued: only a running job can pause"):
        ask(job.id, Ask.PAUSE)


def test_a_job_that_has_just_begun_is_asked_again_until_its_node_hears(hub: Hub) -> None:
    job = train.delay(TRUE)
    hub.client.hset(hub.keys.job(job.id), mapping={"state": "running", "node": "node-a"})
    asked = threading.Thread(target=ask, args=(job.id, Ask.PAUSE), daemon=True)
    with hub.settings.connect().pubsub() as listener:  # type: ignore[no-untyped-call]  # redis-py

        def calls() -> int:
            info: dict[str, Any] = hub.client.info("commandstats")  # type: ignore[assignment]  # redis-py
            return int(info.get("cmdstat_publish", {}).get("calls", 0))

        before = calls()
        asked.start()
        wait_until(lambda: calls() > before, what="it was said, and nobody heard")
        listener.subscribe(hub.keys.control("node-a", job.id))

        def heard() -> bool:
            found = listener.get_message(ignore_subscribe_messages=True, timeout=0.1)
            return found is not None and json.loads(found["data"]) == {"op": "pause"}

        wait_until(heard, what="it is said again")
        asked.join(5)
        assert not asked.is_alive()


def test_why_a_job_was_cancelled_is_kept(hub: Hub) -> None:
    job = train.delay(TRUE)
    found = cancel(job.id, "x" * 5000)
    assert (found.state, found.changed) == (JobState.CANCELLED, True)
    assert hub.records.get(job.id).message == "x" * 1000
    assert cancel(job.id).changed is False


def test_other_tasks_are_revoked_as_ever(hub: Hub) -> None:
    job = train.delay(TRUE)
    with hub.client.pubsub() as heard:
        heard.psubscribe(f"{hub.settings.prefix}*pidbox")
        wait_until(lambda: (heard.get_message(timeout=1) or {}).get("type") == "psubscribe")
        hub.app.control.revoke([job.id, "not-a-job"])
        told = heard.get_message(timeout=5)
    assert told is not None
    order = json.loads(base64.b64decode(json.loads(told["data"])["body"]))
    assert (order["method"], order["arguments"]["task_id"]) == ("revoke", ["not-a-job"])
    assert hub.records.get(job.id).state is JobState.CANCELLED


# Redis


@pytest.mark.parametrize("url", ["redis://u:secret@127.0.0.1:{port}/0", "unix:///nowhere/r.sock"])
def test_a_redis_that_refuses_is_named_soon_and_without_its_password(url: str) -> None:
    settings = Settings(redis_url=url.format(port=free_port()))
    app = make_app(settings, include=())
    shown = settings.redis_url.replace("u:secret@", r"u:\*\*\*@")
    for attempt in (
        settings.check,
        lambda: app.send_task("tasks.train", [TRUE]),
        lambda: cancel("one", app=app),
        lambda: ask("one", Ask.PAUSE, app=app),
        lambda: next(follow("one", settings=settings)),
        lambda: app.control.revoke("one"),
    ):
        began = time.monotonic()
        with pytest.raises(RedisUnavailable, match=f"cannot use Redis at {shown}: ") as caught:
            attempt()
        assert time.monotonic() - began < MOST_S
        assert "secret" not in str(caught.value)


def test_a_wrong_password_is_said_so(hub: Hub) -> None:
    hub.client.config_set("requirepass", "right")
    try:
        with pytest.raises(RedisUnavailable, match=r"cannot use Redis at .*(Auth|auth)"):
            hub.settings.check()
        app = make_app(hub.settings, include=())
        with pytest.raises(RedisUnavailable):
            app.send_task("tasks.train", [TRUE])
    finally:
        hub.client.execute_command("AUTH", "right")
        hub.client.config_set("requirepass", "")


def test_what_is_told_of_a_job_stands_in_the_message_that_is_queued(hub: Hub) -> None:
    """Such as a trace's id: from the caller, and from who listens to Celery's signal."""

    def trace(headers: dict[str, Any], **_: Any) -> None:
        headers["traceparent"] = "00-4bf9-00"

    before_task_publish.connect(trace)
    try:
        sent = train.apply_async((TRUE,), headers={"tenant": "a"})
    finally:
        before_task_publish.disconnect(trace)
    (message,) = messages(hub.app.records, sent.id)
    found = message["headers"]
    assert (found["tenant"], found["traceparent"]) == ("a", "00-4bf9-00")


def test_threads_that_submit_and_end_leave_no_connection_behind(hub: Hub) -> None:
    def several() -> None:
        for _ in range(3):
            with pytest.raises(UnknownJob):
                hub.app.records.cancel("nobody", "")

    before = len(hub.client.client_list())
    for _ in range(150):  # more than the connections that a pool may have
        thread = threading.Thread(target=several)
        thread.start()
        thread.join()
    several()
    wait_until(lambda: len(hub.client.client_list()) < before + 10, what="connections that close")
