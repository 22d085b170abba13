"""A whole run: a cluster, its jobs, the faults, and what is found afterwards."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import redis
from celery import chain, chord

from tasks.celery import make_app
from tasks.control import cancel
from tasks.errors import RedisUnavailable
from tasks.publishing import TRAIN, JobCelery
from tasks.settings import Settings
from tests.chaos import checker, schedule
from tests.chaos.checker import Expected, Told, Violation
from tests.chaos.injector import Engine, Host, Injector
from tests.chaos.link import Link
from tests.chaos.schedule import End, Job, Kind
from tests.support.live_node import LiveNode
from tests.support.redis_server import RedisServer
from tests.support.wall_clock import WallClock
from worker.keeper import procfs

_SCRIPT: Final = Path(__file__).with_name("job.py")
_ENDS: Final = ("succeeded", "failed", "cancelled", "rejected")
_ATTEMPTS: Final = 100
"""That a job may have: a run is not about giving up."""
_TICK: Final = 0.02
_CLEAN_WITHIN: Final = 90.0
"""A node looks for what ended jobs left every minute."""
ALL_KINDS: Final = frozenset(Kind)

# Redis's keys that are there for as long as the cluster is; everything else has an end.
_LASTING: Final = ("queues", "nodes", "_kombu.binding", "node:", "reaper")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to run."""

    seed: int
    jobs: int
    nodes: int = 2
    slots: int = 2
    ttl: float = 3.0
    every: float = 2.0
    """Seconds between two faults, on average."""
    kinds: frozenset[Kind] = ALL_KINDS
    patience: float = 600.0
    """Seconds that all jobs together have."""


@dataclass(kw_only=True)
class Report:
    """What a run came to."""

    seed: int
    jobs: int
    seconds: float
    faults: Mapping[str, int]
    missed: Mapping[str, int]
    ends: Mapping[str, int]
    attempts: int
    most_attempts: int
    slowest: float
    """Seconds from a job's submission to its end, of the one that waited longest."""
    violations: list[Violation] = field(default_factory=list)

    def text(self) -> str:
        """For people."""
        head = (
            f"seed {self.seed}: {self.jobs} jobs in {self.seconds:.0f} s, {self.attempts} attempts"
        )
        lines = [
            f"{head} (at most {self.most_attempts} of one job), slowest {self.slowest:.1f} s",
            "  ended: " + _counts(self.ends),
            f"  faults: {sum(self.faults.values())}: " + _counts(self.faults),
            "  found nothing to hit: " + _counts(self.missed),
            f"  violations: {len(self.violations)}",
            *(f"    {one}" for one in self.violations),
        ]
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        return {**self.__dict__, "violations": [str(one) for one in self.violations]}


class Chaos:
    """One run. A context manager: everything that it started ends with it."""

    def __init__(self, plan: Plan, directory: Path, engine: Engine | None = None) -> None:
        self._plan = plan
        self._directory = directory
        self._log = directory / "log"
        self._log.mkdir()
        self._server = RedisServer(directory=directory / "redis")
        self._jobs = schedule.jobs(plan.seed, plan.jobs)
        self._hosts: list[Host] = []
        self._engine = engine
        self._cancels: dict[str, float] = {}

    def __enter__(self) -> Chaos:
        try:
            self._server.start()
            settings = Settings(
                redis_url=self._server.url, lease_ttl_ms=round(self._plan.ttl * 1e3)
            )
            self._app: JobCelery = make_app(settings, include=())
            for number in range(self._plan.nodes):
                self._hosts.append(self._host(number))
                self._hosts[-1].start()
            for host in self._hosts:
                host.node.wait_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._server.thaw()
        for host in self._hosts:
            host.link.mend()
            host.node.close()
            host.link.close()
        self._server.close()

    def _host(self, number: int) -> Host:
        directory = self._directory / f"node-{number}"
        directory.mkdir()
        link = Link(self._server.socket).start()
        clock = WallClock(directory / "clock")
        node = LiveNode(
            directory=directory,
            redis_url=link.url,
            name=f"node-{number}",
            slots=self._plan.slots,
            lease_ttl=self._plan.ttl,
            lease_grace=self._plan.ttl / 2,
            env=clock.env,
        )
        return Host(node, link, clock)

    def run(self) -> Report:
        """Submit all jobs, do the harm, wait for the end, and judge."""
        begun = time.monotonic()
        injector = Injector(self._server, self._hosts, self._engine)
        coming = schedule.faults(
            self._plan.seed,
            nodes=self._plan.nodes,
            ttl=self._plan.ttl,
            every=self._plan.every,
            kinds=self._plan.kinds,
        )
        for job in self._jobs:
            if not job.after:
                self._submit(job)
        fault = next(coming)
        until = begun + self._plan.patience
        while not self._over() and time.monotonic() < until:
            now = time.monotonic()
            injector.step(now)
            while fault.at <= now - begun:
                injector.inject(fault)
                fault = next(coming)
            self._cancel_due()
            time.sleep(_TICK)
        injector.mend_all()
        self._settle(until)
        return self._report(injector, time.monotonic() - begun)

    # --- jobs

    def _submit(self, first: Job) -> None:
        """A job, or the whole chain or chord that begins with it."""
        after = [one for one in self._jobs if first.id in one.after]
        if not after:
            self._app.send_task(TRAIN, [self._config(first)], task_id=first.id)
            if first.meant is End.CANCELLED:
                self._cancels[first.id] = time.monotonic() + first.seconds
        elif after[0].after[0] == first.id:
            header = [self._signature(self._job(one)) for one in after[0].after]
            body = self._signature(after[0])
            shape = chain(header[0], body) if len(header) == 1 else chord(header, body)
            shape.apply_async()

    def _job(self, job_id: str) -> Job:
        return self._jobs[int(job_id.rpartition("-")[2])]

    def _signature(self, job: Job) -> Any:
        return self._app.signature(
            TRAIN, args=[self._config(job)], task_id=job.id, immutable=True, app=self._app
        )

    def _config(self, job: Job) -> dict[str, Any]:
        code = "1" if job.meant is End.FAILED else "0"
        program = ["python3", "-I", "-S", str(_SCRIPT), str(self._log), str(job.seconds), code]
        return {"job_id": job.id, "command": program, "max_attempts": _ATTEMPTS}

    def _cancel_due(self) -> None:
        for job, at in [*self._cancels.items()]:
            if time.monotonic() >= at:
                try:
                    cancel(job, "chaos", app=self._app)
                except (RedisUnavailable, redis.RedisError):
                    self._cancels[job] = time.monotonic() + 1.0  # asked again when Redis is back
                else:
                    del self._cancels[job]

    # --- the end

    def _over(self) -> bool:
        client = self._server.client()
        try:
            return all(client.hget(f"cyxwiz:job:{job.id}", "state") in _ENDS for job in self._jobs)
        except redis.RedisError:
            return False
        finally:
            client.close()

    def _settle(self, until: float) -> None:
        """Until everything is quiet, or there is no time left."""
        while not self._over() and time.monotonic() < until:
            self._cancel_due()
            time.sleep(0.1)
        quiet = time.monotonic() + _CLEAN_WITHIN
        while time.monotonic() < quiet and (self._left() or self._untold()):
            time.sleep(0.2)

    def _untold(self) -> bool:
        client = self._server.client()
        try:
            return any(not client.exists(f"cyxwiz:celery-task-meta-{job.id}") for job in self._jobs)
        finally:
            client.close()

    def _left(self) -> dict[str, list[str]]:
        found = {
            f"{host.node.name} {kind}": names
            for host in self._hosts
            for kind, names in host.node.leftovers().items()
        }
        found["processes of jobs"] = _processes(self._log)
        found["keys"] = self._untimed()
        return {kind: names for kind, names in found.items() if names}

    def _untimed(self) -> list[str]:
        """Keys without an end, but for those of the cluster itself."""
        client = self._server.client()
        try:
            return sorted(
                f"{key} ({client.type(key)})"
                for key in client.scan_iter(count=500)
                if client.ttl(key) == -1 and not key.removeprefix("cyxwiz:").startswith(_LASTING)
            )
        finally:
            client.close()

    def _report(self, injector: Injector, seconds: float) -> Report:
        told = {job.id: self._told(job.id) for job in self._jobs}
        log = checker.parse((self._log / "work.log").read_text().splitlines())
        attempts = checker.attempts_of(log)
        waits = [one.events[-1]["ts"] - one.events[0]["ts"] for one in told.values() if one.events]
        violations = checker.check(
            checker.Run(
                expected={job.id: _expected(job) for job in self._jobs},
                log=log,
                told=told,
                left=self._left(),
            )
        )
        return Report(
            seed=self._plan.seed,
            jobs=len(self._jobs),
            seconds=seconds,
            faults={str(kind): count for kind, count in injector.done.most_common()},
            missed={str(kind): count for kind, count in injector.missed.most_common()},
            ends=Counter(one.state or "no record" for one in told.values()),
            attempts=sum(attempts.values()),
            most_attempts=max(attempts.values(), default=0),
            slowest=max(waits, default=0.0),
            violations=violations,
        )

    def _told(self, job: str) -> Told:
        client = self._server.client()
        try:
            record: dict[str, str] = client.hgetall(f"cyxwiz:job:{job}")  # type: ignore[assignment]
            stored = json.loads(client.get(f"cyxwiz:celery-task-meta-{job}") or "{}")  # type: ignore[arg-type]
            rows = [
                json.loads(fields["e"])
                for kind in ("history", "tail")
                for _, fields in client.xrange(f"cyxwiz:{kind}:{job}")  # type: ignore[union-attr]
            ]
        finally:
            client.close()
        return Told(
            state=record.get("state", ""),
            result=json.loads(record.get("result") or "{}"),
            celery=stored.get("status", ""),
            celery_result=stored.get("result"),
            events=sorted(rows, key=lambda row: row["seq"]),
        )


def _expected(job: Job) -> Expected:
    ends = {str(job.meant)}
    if job.meant is End.CANCELLED:
        ends.add("succeeded")  # it was faster
    return Expected(ends=frozenset(ends), needs=job.after)


def _processes(log: Path) -> list[str]:
    """Living processes that were started to write to this log."""
    mark = str(log).encode()
    return [
        str(pid)
        for pid in procfs.pids()
        if str(_SCRIPT).encode() in (line := procfs.read_bytes(f"/proc/{pid}/cmdline") or b"")
        and mark in line
    ]


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"
