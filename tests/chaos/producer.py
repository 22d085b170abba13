"""Submits the jobs of a run, a few at a time, while the faults strike; cancels some of them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

import redis
from celery import chain, chord

from tasks.control import cancel
from tasks.errors import RedisUnavailable
from tasks.publishing import TRAIN, JobCelery
from tests.chaos.schedule import End, Job

_SCRIPT: Final = Path(__file__).with_name("job.py")
_ENDS: Final = ("succeeded", "failed", "cancelled", "rejected")
_ATTEMPTS: Final = 100
"""That a job may have: a run is not about giving up."""
_ENDLESS_S: Final = 3600.0
_AGAIN_S: Final = 0.3
"""After which it is tried again while Redis is away."""
_AWAY: Final = (RedisUnavailable, redis.RedisError)


class Producer:
    """Another host, as it were: what is done to nodes does not concern it."""

    def __init__(
        self,
        app: JobCelery,
        client: redis.Redis,
        jobs: Sequence[Job],
        *,
        log: Path,
        ahead: int,
        calm: Callable[[], AbstractContextManager[None]],
        containers: bool = False,
    ) -> None:
        """``ahead``: how many jobs may be under way. ``calm``: while Redis is there, and stays.
        ``containers``: jobs may come to be in one."""
        self._app = app
        self._client = client
        self._log = log
        self._ahead = ahead
        self._calm = calm
        self._containers = containers
        self._jobs = {job.id: job for job in jobs}
        self._next = deque(job for job in jobs if not job.after)
        self._following: dict[str, list[Job]] = {}
        for job in jobs:
            for earlier in job.after:
                self._following.setdefault(earlier, []).append(job)
        self._begun: set[str] = set()
        self._with_others: set[str] = set()
        """Submitted with the first of their chain or chord."""
        self._open: set[str] = set()
        self._cancels: dict[str, float] = {}
        self._not_before = 0.0

    @property
    def done(self) -> bool:
        """Every job was submitted, and is over."""
        return not self._next and not self._open

    @property
    def open(self) -> list[str]:
        """The jobs that are not over."""
        return sorted(self._open)

    @property
    def over(self) -> int:
        """How many jobs are over."""
        return len(self._begun) - len(self._open)

    def step(self) -> None:
        """Do what is due. Returns soon."""
        if time.monotonic() < self._not_before:
            return
        try:
            self._look()
            self._submit_some()
            self._cancel_due()
        except _AWAY:
            self._not_before = time.monotonic() + _AGAIN_S

    def _look(self) -> None:
        asked = sorted(self._open)
        pipe = self._client.pipeline(transaction=False)
        for job in asked:
            pipe.hget(f"cyxwiz:job:{job}", "state")
        states = pipe.execute()
        self._open.difference_update(
            job for job, state in zip(asked, states, strict=True) if state in _ENDS
        )

    def _submit_some(self) -> None:
        while self._next and len(self._open) < self._ahead:
            first = self._next[0]
            if first.id not in self._with_others:
                self._submit(first)
            self._next.popleft()

    def _submit(self, first: Job) -> None:
        """A job, or the whole chain or chord that begins with it.

        A job may be submitted twice, and is when Redis does not answer; a chord may not.
        """
        after = self._following.get(first.id)
        if not after:
            self._began(first)
            self._app.send_task(TRAIN, [self._config(first)], task_id=first.id)
            if first.meant is End.CANCELLED:
                self._cancels[first.id] = time.monotonic() + first.seconds
            return
        [body] = after
        members = [self._jobs[one] for one in body.after]
        with self._calm():
            header = [self._signature(one) for one in members]
            last = self._signature(body)
            for one in (*members, body):
                self._began(one)
                self._with_others.add(one.id)
            shape = chain(header[0], last) if len(header) == 1 else chord(header, last)
            shape.apply_async()

    def _began(self, job: Job) -> None:
        if job.id not in self._begun:
            self._begun.add(job.id)
            self._open.add(job.id)

    def _signature(self, job: Job) -> Any:
        return self._app.signature(
            TRAIN, args=[self._config(job)], task_id=job.id, immutable=True, app=self._app
        )

    def config(self, job_id: str) -> dict[str, Any]:
        """What is submitted under this id."""
        return self._config(self._jobs[job_id])

    def _config(self, job: Job) -> dict[str, Any]:
        code = "1" if job.meant is End.FAILED else "0"
        if self._containers:  # the log is where these see it too: with the job's checkpoints
            program, place = ["-c", _SCRIPT.read_text()], ""
        else:
            program, place = [str(_SCRIPT)], str(self._log)
        # the last argument is a mark: by it a process of this run is known
        words = [
            "python3",
            "-I",
            "-S",
            *program,
            place,
            str(_ENDLESS_S if job.endless else job.seconds),
            code,
            str(self._log),
        ]
        return {"job_id": job.id, "command": words, "max_attempts": _ATTEMPTS}

    def _cancel_due(self) -> None:
        for job, at in [*self._cancels.items()]:
            if time.monotonic() >= at:
                cancel(job, "chaos", app=self._app)
                del self._cancels[job]
