"""Every job of a run is submitted, whatever Redis says at the first try."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import RedisUnavailable
from tests.chaos import producer
from tests.chaos.producer import Producer
from tests.chaos.schedule import Job

pytestmark = pytest.mark.unit


class Refusing:
    """An app, and its Redis, that answers at every other try; whatever was submitted has ended."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self._tries = 0
        self._asked = 0

    def send_task(self, name: str, args: Any, task_id: str) -> None:
        self._tries += 1
        if self._tries % 2:
            raise RedisUnavailable("away")
        self.sent.append(task_id)

    def pipeline(self, *, transaction: bool) -> Refusing:
        self._asked = 0
        return self

    def hget(self, key: str, field: str) -> None:
        self._asked += 1

    def execute(self) -> list[str]:
        return ["succeeded"] * self._asked


def test_a_job_that_was_refused_is_submitted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producer, "_AGAIN_S", 0.0)
    app: Any = Refusing()
    jobs = [Job(id=f"chaos-{number}", seconds=1.0) for number in range(3)]
    made = Producer(app, app, jobs, log=Path("/log"), ahead=2, calm=nullcontext)
    for _ in range(20):
        made.step()
    assert made.done
    assert app.sent == [job.id for job in jobs]
