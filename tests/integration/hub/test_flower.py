"""Flower with the project's configuration, and what is seen of it in a real browser."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks import train
from tasks.state import JobState
from tests.conftest import Hub
from tests.support.browser import MISSING, Browser, chromium
from tests.support.flower import AUTHORIZATION, Flower
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

WAIT = 30
REPORTS = """
import json, pathlib, sys, time
for epoch in range(1, 4):
    print(json.dumps({"type": "progress", "epoch": epoch, "total_epochs": 4, "loss": 0.5 / epoch}))
sys.stdout.flush()
while not pathlib.Path(sys.argv[1]).exists():
    time.sleep(0.02)
print(json.dumps({"type": "complete", "success": True}))
"""
Start = Callable[..., Flower]


@pytest.fixture(scope="module")
def start(node_hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts Flowers, each profile once."""
    pytest.importorskip("flower", reason="the extra `monitor` is not installed")
    started: dict[str, Flower] = {}

    def start(profile: str) -> Flower:
        if profile not in started:
            env = {**node_hub.env, "CYXWIZ_FLOWER_PROFILE": profile}
            started[profile] = Flower(env, tmp_path_factory.mktemp("flower"))
            wait_until(started[profile].answers, timeout=WAIT, what="Flower")
            wait_until(lambda: started[profile].shows("/workers", "cpu0@node-a"), timeout=WAIT)
        return started[profile]

    yield start
    for one in started.values():
        one.close()


def running(hub: Hub, tmp_path: Path) -> str:
    """A job that has reported three epochs of four and waits."""
    command = [sys.executable, "-S", "-c", REPORTS, str(tmp_path / "go")]
    job = train.delay({"command": command})

    def far() -> bool:
        return hub.records.get(job.id).progress.get("epoch") == 3

    wait_until(far, timeout=WAIT, what="the third epoch")
    return str(job.id)


def listed(flower: Flower) -> dict[str, dict[str, str]]:
    """The rows of the list, as the page asks for them."""
    query = "draw=1&start=0&length=100&order[0][column]=0&order[0][dir]=asc&columns[0][data]=name"
    _, text = flower.ask(f"/tasks/datatable?{query}&search[value]=")
    return {row["uuid"]: row for row in json.loads(text)["data"]}


def test_the_running_job_is_seen_with_its_progress_and_revoke_ends_it_and_frees_the_slot(
    start: Start, node_hub: Hub, tmp_path: Path
) -> None:
    if chromium() is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(MISSING)
    flower = start("operator")
    job_id = running(node_hub, tmp_path)
    wait_until(lambda: job_id in listed(flower), timeout=WAIT, what="the job in the list")
    with Browser(tmp_path) as browser:
        browser.send_headers({"Authorization": AUTHORIZATION})
        browser.go(f"{flower.url}/tasks")
        browser.wait_text(job_id[:8], "STARTED", "75%", "epoch 3/4", "loss 0.1667", "cpu")
        picture = browser.screenshot(tmp_path / "list.png")
        assert picture.startswith(b"\x89PNG")
        assert len(picture) > 10_000, "a page of nothing is smaller"
        browser.go(f"{flower.url}/task/{job_id}")
        browser.wait_text(job_id, "75%  epoch 3/4  loss 0.1667", "tasks.train", "@node-a")
        assert len(browser.screenshot(tmp_path / "page.png")) > 10_000
        browser.run("document.getElementById('task-terminate').click()")
        wait_until(
            lambda: node_hub.records.get(job_id).state is JobState.CANCELLED,
            timeout=WAIT,
            what="cancelled",
        )
        browser.go(f"{flower.url}/task/{job_id}")
        browser.wait_text("REVOKED", "cancelled: revoked")
    held = node_hub.client.hgetall(node_hub.keys.holds("node-a"))
    assert job_id not in held.values()
    assert train.delay({"command": ["true"]}).get(timeout=WAIT)["attempt"] == 1


def test_a_broken_record_is_a_row_of_its_own_and_hides_no_other(
    start: Start, node_hub: Hub
) -> None:
    flower, client, keys = start("operator"), node_hub.client, node_hub.keys
    ids = [str(train.delay({"command": ["x"], "required_device": "cuda"}).id) for _ in range(5)]
    before, number, of_another_type, huge, after = ids
    client.hset(keys.job(number), "attempt", "x")
    client.delete(keys.job(of_another_type))
    client.rpush(keys.job(of_another_type), "x")
    progress = json.dumps({"progress": 10**400, "total_epochs": 2})
    client.hset(keys.job(huge), mapping={"state": "running", "progress": progress})
    wait_until(lambda: set(ids) <= set(listed(flower)), timeout=WAIT, what="all in the list")
    rows = listed(flower)
    assert [rows[one]["result"] for one in (before, after)] == ["queued", "queued"]
    broken = [rows[one]["result"] for one in (number, huge)]
    assert broken == ["queued: its record is broken", "running: its record is broken"]
    assert of_another_type in rows


def test_the_list_says_how_jobs_ended_also_of_those_that_no_worker_told_of(
    start: Start, node_hub: Hub
) -> None:
    flower = start("operator")
    done = train.delay({"command": ["true"]})
    done.get(timeout=WAIT)
    failed = train.delay({"command": ["sh", "-c", "exit 3"], "max_attempts": 1})
    waiting = train.delay({"command": ["true"], "required_device": "cuda"})

    def said(job: object, state: str, text: str) -> bool:
        row = listed(flower).get(str(job), {})
        return row.get("state") == state and text in str(row.get("result"))

    wait_until(lambda: said(done.id, "SUCCESS", "succeeded"), timeout=WAIT, what="success")
    wait_until(lambda: said(failed.id, "FAILURE", "failed: user_error"), timeout=WAIT, what="fail")
    wait_until(lambda: said(waiting.id, "RECEIVED", "queued"), timeout=WAIT, what="queued")
    status, text = flower.ask(f"/api/task/revoke/{waiting.id}?terminate=false", data=b"")
    assert (status, waiting.id in text) == (200, True)
    wait_until(lambda: said(waiting.id, "REVOKED", "cancelled: revoked"), timeout=WAIT, what="end")
    assert {row["name"] for row in listed(flower).values()} == {"tasks.train"}


def test_a_redis_that_hangs_holds_up_a_page_once_and_not_for_each_row(
    start: Start, node_hub: Hub
) -> None:
    flower = start("operator")
    jobs = {str(train.delay({"command": ["true"], "pool": "none"}).id) for _ in range(40)}
    wait_until(lambda: jobs <= listed(flower).keys(), timeout=WAIT, what="the jobs in the list")
    assert {listed(flower)[one]["result"] for one in jobs} == {"queued"}
    node_hub.server.freeze()
    try:
        without = listed(flower)  # gives up after ten seconds: a second for each were forty
        assert flower.ask("/healthcheck", login=False) == (200, "OK")
    finally:
        node_hub.server.thaw()
    assert jobs <= without.keys()
    assert {without[one]["result"] for one in jobs} == {None}, "as Flower knows them"

    def back() -> bool:
        return {listed(flower)[one]["result"] for one in jobs} == {"queued"}

    wait_until(back, timeout=WAIT, what="Redis is asked again")
    for one in jobs:
        node_hub.records.cancel(one, "")


def test_an_operator_can_cancel_and_nothing_else(start: Start) -> None:
    flower = start("operator")
    for path in (
        "/api/worker/shutdown/cpu0@node-a",
        "/api/worker/pool/grow/cpu0@node-a?n=3",
        "/api/worker/queue/add-consumer/cpu0@node-a?queue=x",
        "/api/task/send-task/tasks.train",
        "/api/task/async-apply/tasks.train",
    ):
        status, text = flower.ask(path, data=b"{}")
        assert (status, "only jobs can be cancelled here" in text) == (403, True), path


def test_read_only_is_the_default_and_nothing_is_open(
    start: Start, node_hub: Hub, tmp_path: Path
) -> None:
    flower = start("")
    job_id = running(node_hub, tmp_path)
    status, _ = flower.ask(f"/api/task/revoke/{job_id}?terminate=true", data=b"")
    assert status == 403
    assert node_hub.records.get(job_id).state is JobState.RUNNING
    wait_until(lambda: flower.ask(f"/task/{job_id}")[0] == 200, timeout=WAIT, what="its page")
    assert "task-terminate" not in flower.ask(f"/task/{job_id}")[1]
    for path in ("/", "/tasks", "/workers", f"/task/{job_id}", "/broker", "/metrics",
                 "/api/tasks", "/api/workers", f"/api/task/info/{job_id}"):  # fmt: skip
        assert flower.ask(path, login=False)[0] == 401, path
    assert flower.ask("/healthcheck", login=False) == (200, "OK")
    assert "flower_events_total" in flower.ask("/metrics")[1]
    (tmp_path / "go").touch()
    wait_until(lambda: node_hub.records.get(job_id).state.terminal, timeout=WAIT, what="its end")


@pytest.mark.parametrize(
    ("env", "login", "said"),
    [
        ({}, "", "set FLOWER_BASIC_AUTH=USER:PASSWORD"),
        ({"CYXWIZ_FLOWER_PROFILE": "root"}, "a:b", "read-only or operator is needed"),
    ],
)
def test_it_does_not_start_without_a_password_or_with_another_profile(
    hub: Hub, tmp_path: Path, env: dict[str, str], login: str, said: str
) -> None:
    pytest.importorskip("flower", reason="the extra `monitor` is not installed")
    flower = Flower({**hub.env, **env}, tmp_path, login=login)
    try:
        assert flower.process.wait(30) != 0
    finally:
        flower.process.kill()
    assert said in flower.said
