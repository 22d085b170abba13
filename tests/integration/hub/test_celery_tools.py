"""Celery's own tools, and Flower, as they are."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery.exceptions import TaskRevokedError

from tasks import train
from tasks.state import JobState
from tests.conftest import Hub
from tests.support.redis_server import free_port
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[3]
WAIT = 30


def celery(hub: Hub, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "celery", "-A", "tasks", *args],
        env=hub.env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def start(hub: Hub, **fields: object) -> str:
    """A job that runs until it is ended."""
    job = train.delay({"command": ["sleep", "60"], **fields})
    wait_until(lambda: hub.records.get(job.id).state is JobState.RUNNING, timeout=WAIT, what="runs")
    return str(job.id)


def test_inspect_and_control(node_hub: Hub) -> None:
    job_id = start(node_hub)
    done = celery(node_hub, "inspect", "active", "--timeout", "3", "--json")
    assert done.returncode == 0, done.stderr
    found = {one["id"]: name for name, ones in json.loads(done.stdout).items() for one in ones}
    assert found[job_id] in ("cpu0@node-a", "cpu1@node-a")
    done = celery(node_hub, "control", "--timeout", "5", "revoke", job_id)
    assert done.returncode == 0, done.stderr
    assert f"job {job_id} is being cancelled" in done.stdout
    with pytest.raises(TaskRevokedError):
        train.AsyncResult(job_id).get(timeout=WAIT)
    order = {"task_id": job_id, "signal": "SIGKILL"}
    (reply,) = node_hub.app.control.broadcast("terminate", arguments=order, reply=True)
    assert reply == {"hub": {"ok": f"job {job_id} had ended: cancelled"}}


def test_a_monitor_hears_of_every_short_job(node_hub: Hub) -> None:
    """Their events come together, and all the same."""
    heard: dict[str, set[str]] = {}

    def take(event: dict[str, str]) -> None:
        if event["type"].startswith("task-"):
            heard.setdefault(event["uuid"], set()).add(event["type"])

    connection = node_hub.app.connection_for_read()
    receiver = node_hub.app.events.Receiver(connection, handlers={"*": take})

    def listen() -> None:
        with connection, contextlib.suppress(TimeoutError):
            receiver.capture(limit=None, timeout=WAIT, wakeup=False)

    before = node_hub.client.pubsub_numpat()
    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    wait_until(lambda: node_hub.client.pubsub_numpat() > before, timeout=WAIT, what="it listens")
    jobs = [train.delay({"command": ["true"]}) for _ in range(20)]
    for job in jobs:
        job.get(timeout=WAIT)
    every = {"task-sent", "task-received", "task-succeeded"}
    wait_until(
        lambda: all(heard.get(job.id, set()) >= every for job in jobs), timeout=WAIT, what="all"
    )
    receiver.should_stop = True
    thread.join(WAIT)


class Flower:
    """A running Flower."""

    def __init__(self, hub: Hub, directory: Path) -> None:
        self._url = f"http://127.0.0.1:{(port := free_port())}"
        self._log = directory / "flower.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "tasks", "flower", f"--port={port}",
                 "--address=127.0.0.1"],
                env={**hub.env, "FLOWER_UNAUTHENTICATED_API": "true"},
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )  # fmt: skip

    def get(self, path: str, data: bytes | None = None) -> str:
        with urllib.request.urlopen(self._url + path, data=data, timeout=10) as answer:  # loopback
            text: str = answer.read().decode()
            return text

    def shows(self, path: str, text: str) -> bool:
        assert self.process.poll() is None, self._log.read_text()
        try:
            return text in self.get(path)
        except (urllib.error.URLError, ConnectionError):
            return False

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)


@pytest.fixture
def flower(node_hub: Hub, tmp_path: Path) -> Iterator[Flower]:
    pytest.importorskip("flower", reason="the extra `monitor` is not installed")
    found = Flower(node_hub, tmp_path)
    yield found
    found.close()


def test_flower_shows_jobs_and_its_revoke_cancels_them(node_hub: Hub, flower: Flower) -> None:
    wait_until(lambda: flower.shows("/workers", "cpu0@node-a"), timeout=WAIT, what="the workers")
    assert "Tasks" in flower.get("/tasks")
    job_id = start(node_hub)
    wait_until(lambda: flower.shows(f"/task/{job_id}", "STARTED"), timeout=WAIT, what="the job")
    assert job_id in flower.get("/api/tasks")
    said = json.loads(flower.get(f"/api/task/revoke/{job_id}?terminate=true", b""))
    assert job_id in said["message"]
    with pytest.raises(TaskRevokedError):
        train.AsyncResult(job_id).get(timeout=WAIT)
    record = node_hub.records.get(job_id)
    assert (record.state, record.attempt) == (JobState.CANCELLED, 1)
    done = train.delay({"command": ["true"]})
    done.get(timeout=WAIT)
    for shown, state in ((job_id, "REVOKED"), (done.id, "SUCCESS")):
        wait_until(
            lambda shown=shown, state=state: flower.shows(f"/task/{shown}", state),  # type: ignore[misc]
            timeout=WAIT,
            what=f"{shown} {state}",
        )


def test_flower_needs_nothing_of_a_node() -> None:
    code = "import sys, tasks; tasks.app.finalize(); print('worker' in sys.modules)"
    env = {name: text for name, text in os.environ.items() if not name.startswith("CYXWIZ_")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
