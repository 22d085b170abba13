"""A producer and a node on one hub, as an end-to-end test sees them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from celery.result import AsyncResult

from tasks.celery import make_app
from tasks.events import Envelope, Log, Progress
from tasks.following import follow
from tasks.publishing import TRAIN, JobCelery
from tasks.recorded import JobRecord
from tasks.settings import Settings
from tasks.state import JobState
from tests.support.checkpoints import place_of
from tests.support.live_node import LiveNode
from tests.support.waiting import wait_until


@dataclass
class Cluster:
    """``node`` serves the hub that `submit` publishes to."""

    node: LiveNode
    settings: Settings
    app: JobCelery
    submitted: list[AsyncResult] = field(default_factory=list)
    _adopted: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, node: LiveNode) -> Cluster:
        settings = Settings(redis_url=node.redis_url, prefix=node.prefix)
        return cls(node=node, settings=settings, app=make_app(settings, include=()))

    def submit(self, config: Mapping[str, Any]) -> AsyncResult:
        """Publish a job, with an id of its own if it names none."""
        given = {"job_id": f"job-{uuid.uuid4().hex[:12]}", **config}
        self.submitted.append(self.app.send_task(TRAIN, [given], task_id=given["job_id"]))
        return self.submitted[-1]

    def close(self) -> None:
        """Before its Redis ends: a result that is collected later would look for it."""
        for job in self.submitted:
            job.backend = None

    def command(self, script: str, **more: Any) -> AsyncResult:
        """Publish a job that runs ``script`` with Python."""
        return self.submit({"command": ["python3", "-c", script], **more})

    def shell(self, script: str, **more: Any) -> AsyncResult:
        """Publish a job that runs ``script`` with sh."""
        return self.submit({"command": ["/bin/sh", "-c", script], **more})

    def events(self, job: AsyncResult, timeout: float = 30.0) -> list[Envelope]:
        """All events of the job, once it has ended."""
        return list(follow(job.id, settings=self.settings, timeout=timeout))

    def logged(self, job: AsyncResult, timeout: float = 30.0) -> list[str]:
        """The lines that the job printed, as its followers got them."""
        found = [one.event for one in self.events(job, timeout)]
        return [line for event in found if isinstance(event, Log) for line in event.lines]

    def progress(self, job: AsyncResult, timeout: float = 30.0) -> list[Progress]:
        """The progress that the job reported, as its followers got it."""
        found = [one.event for one in self.events(job, timeout)]
        return [event for event in found if isinstance(event, Progress)]

    def record(self, job: AsyncResult) -> JobRecord:
        return self.app.records.get(job.id)

    def checkpoints(self, job: AsyncResult, shared: Path | None = None, signer: str = "") -> Path:
        """Where this node, or what it shares, has those of the job as it was submitted."""
        return place_of(self.record(job).spec, self.node.paths, shared, signer)

    def wait_state(self, job: AsyncResult, *states: JobState, timeout: float = 30.0) -> JobRecord:
        """The record, once the job is in one of ``states`` (default: a terminal one)."""

        def there() -> bool:
            state = self.record(job).state
            return state in states if states else state.terminal

        wait_until(there, timeout=timeout, what=f"{job.id} to be {states or 'over'}")
        return self.record(job)

    def forget_hand_back(self, job: AsyncResult) -> None:
        """As half a minute after this node handed the job back: until then any other one gets it,
        and there is none."""
        key = self.settings.keys.job(job.id)
        self.app.records.client.hdel(key, f"avoid:{self.node.name}")

    def forget_leader(self) -> None:
        """As ten seconds after the agent that reaped was lost: another one may."""
        self.app.records.client.delete(self.settings.keys.reaper)

    def owner(self, job: AsyncResult) -> str:
        """Which supervisor holds the job's lease."""
        found = self.app.records.client.hget(self.settings.keys.job(job.id), "owner")
        return str(found or "")

    def wait_adopted(self, job: AsyncResult, timeout: float = 30.0) -> None:
        """A supervisor has taken the job's attempt over, and goes on with it: its own log says so.

        To be called after the one before was killed.
        """
        said = f"job.adopted job={job.id} "
        before = self._adopted.get(job.id, 0)

        def adopted() -> bool:
            text = "".join(path.read_text() for path in self.node.paths.logs.glob("*.log"))
            return text.count(said) > before

        wait_until(adopted, timeout=timeout, what=f"{job.id} to be adopted")
        self._adopted[job.id] = before + 1

    def wait_clean(self, timeout: float = 15.0) -> None:
        """Nothing of any attempt is left on the node."""
        wait_until(
            lambda: not self.node.leftovers(),
            timeout=timeout,
            what=f"nothing left behind, but there is {self.node.leftovers()}",
        )


@contextmanager
def started(node: LiveNode) -> Iterator[Cluster]:
    """The node serves; afterwards nothing of it is left."""
    try:
        cluster = Cluster.of(node.start())
        yield cluster
        cluster.close()
    finally:
        node.close()
