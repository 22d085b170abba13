"""A whole run: a cluster, its jobs, the faults, and what is found afterwards."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import redis

from tasks.celery import make_app
from tasks.publishing import JobCelery
from tasks.settings import Settings
from tests.chaos import checker, left, schedule
from tests.chaos.checker import Expected, Told
from tests.chaos.injector import Host, Injector
from tests.chaos.job import GUARD, LOG
from tests.chaos.link import Link
from tests.chaos.producer import Producer
from tests.chaos.report import Report
from tests.chaos.schedule import End, Job, Kind
from tests.support import contained, engine
from tests.support.checkpoints import place_of
from tests.support.dockerd import Dockerd
from tests.support.live_node import LiveNode
from tests.support.redis_server import RedisServer
from tests.support.wall_clock import WallClock

_AHEAD: Final = 3
"""Jobs under way for each slot."""
_TICK: Final = 0.1
_SAY_EVERY: Final = 20.0
_CLEAN_WITHIN: Final = 150.0
"""A node looks for what ended jobs left every minute; the host may be busy."""
ALL_KINDS: Final = frozenset(Kind)


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
    containers: bool = False
    """Every second node runs its jobs in containers: whatever a job is, it may come to be in one,
    and its next attempt outside."""


_GONE_WITHIN: Final = 15.0
"""Of a node's stop: a keeper that lost it all lets go after that."""


class Chaos:
    """One run. A context manager: everything that it started ends with it."""

    def __init__(self, plan: Plan, directory: Path, *, aloud: bool = False) -> None:
        """``aloud``: say on stderr how far it is."""
        self._aloud = aloud
        self._said = time.monotonic()
        self._plan = plan
        self._directory = directory
        self._log = directory / "log"
        self._log.mkdir()
        (self._log / LOG).touch()
        (self._log / LOG).chmod(0o666)  # a container's user writes there too
        self._server = RedisServer(directory=directory / "redis")
        self._engine: Dockerd | None = None
        self._jobs = schedule.jobs(plan.seed, plan.jobs)
        self._hosts: list[Host] = []

    def __enter__(self) -> Chaos:
        try:
            self._server.start()
            self._client = redis.Redis(
                unix_socket_path=str(self._server.socket), decode_responses=True, socket_timeout=1.0
            )
            settings = Settings(
                redis_url=self._server.url, lease_ttl_ms=round(self._plan.ttl * 1e3)
            )
            self._app: JobCelery = make_app(settings, include=())
            if self._plan.containers:
                # as distributions run it: containers outlive a dockerd that is killed
                self._engine = Dockerd(options=["--live-restore"], own_containerd=True).start()
                self._lend_image(self._engine.socket)
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
        if self._engine is not None:
            self._engine.close()

    @staticmethod
    def _lend_image(socket: Path) -> None:
        """Python is all that a run's jobs need of the executor image."""
        engine.import_base(socket)
        client = engine.raw(socket)
        repository, tag = engine.EXECUTOR.split(":")
        client.tag(engine.BASE, repository, tag)
        client.close()

    def _host(self, number: int) -> Host:
        directory = self._directory / f"node-{number}"
        directory.mkdir()
        link = Link(self._server.socket).start()
        clock = WallClock(directory / "clock")
        inside = self._engine is not None and number % 2 == 1
        node = LiveNode(
            directory=directory,
            redis_url=link.url,
            name=f"node-{number}",
            slots=self._plan.slots,
            lease_ttl=self._plan.ttl,
            lease_grace=self._plan.ttl / 2,
            env=clock.env,
            extra=contained.sections(self._engine.socket) if inside and self._engine else {},
        )
        return Host(node, link, clock)

    def run(self) -> Report:
        """Submit all jobs, do the harm, wait for the end, and judge."""
        begun = time.monotonic()
        coming = schedule.faults(
            self._plan.seed,
            nodes=self._plan.nodes,
            ttl=self._plan.ttl,
            every=self._plan.every,
            kinds=self._plan.kinds,
        )
        until = begun + self._plan.patience
        with Injector(self._server, self._hosts, coming, self._engine) as injector:
            producer = Producer(
                self._app,
                self._client,
                self._jobs,
                log=self._log,
                ahead=_AHEAD * self._plan.nodes * self._plan.slots,
                calm=injector.calm,
                containers=self._plan.containers,
            )
            while not producer.done and time.monotonic() < until:
                producer.step()
                self._provide(producer)
                injector.check()
                self._say(f"{producer.over} of {len(self._jobs)} jobs are over", begun)
                time.sleep(_TICK)
        self._settle(producer, until, begun)
        return self._report(injector, time.monotonic() - begun)

    def _say(self, what: str, begun: float) -> None:
        """Now and then, where somebody waits for it."""
        now = time.monotonic()
        if self._aloud and now - self._said >= _SAY_EVERY:
            self._said = now
            sys.stderr.write(f"seed {self._plan.seed}: {now - begun:.0f} s: {what}\n")
            sys.stderr.flush()

    def _provide(self, producer: Producer) -> None:
        """Both files of each job where it sees them in a container: the same on each node."""
        if not self._plan.containers:
            return
        for job in producer.open:
            guard = self._log / f"{job}.{GUARD}"
            if not guard.exists():
                guard.touch()
                guard.chmod(0o666)
            for host in self._hosts:
                place = place_of(producer.config(job), host.node.paths)
                for file, name in ((self._log / LOG, LOG), (guard, GUARD)):
                    try:
                        place.mkdir(parents=True, exist_ok=True)
                        os.link(file, place / name)
                    except (FileExistsError, FileNotFoundError):
                        continue  # it is there; or the node removes what the job left, just now

    # --- the end

    def _settle(self, producer: Producer, until: float, begun: float) -> None:
        """Until everything is quiet, or there is no time left."""
        while not producer.done and time.monotonic() < until:
            producer.step()
            self._provide(producer)
            self._say(f"waits for {producer.open[:5]}", begun)
            time.sleep(_TICK)
        quiet = time.monotonic() + _CLEAN_WITHIN
        while time.monotonic() < quiet and (self._left() or self._untold()):
            self._say("waits for nothing to be left", begun)
            time.sleep(0.2)

    def _untold(self) -> bool:
        return any(
            not self._client.exists(f"cyxwiz:celery-task-meta-{job.id}") for job in self._jobs
        )

    def _left(self) -> dict[str, list[str]]:
        return left.found(self._directory, self._hosts, self._client, self._engine)

    def _left_by_nodes(self) -> dict[str, list[str]]:
        """What is still there of nodes that were stopped as an operator stops them."""
        for host in self._hosts:
            host.node.stop()
        gone = time.monotonic() + _GONE_WITHIN
        while (found := left.serving(self._hosts)) and time.monotonic() < gone:
            time.sleep(_TICK)
        return {"processes of stopped nodes": found} if found else {}

    def _report(self, injector: Injector, seconds: float) -> Report:
        told = {job.id: self._told(job.id) for job in self._jobs}
        log = checker.parse((self._log / LOG).read_text().splitlines())
        attempts = checker.attempts_of(log)
        waits = {
            job: one.events[-1]["ts"] - one.events[0]["ts"]
            for job, one in told.items()
            if one.events
        }
        violations = checker.check(
            checker.Run(
                expected={job.id: _expected(job) for job in self._jobs},
                log=log,
                told=told,
                left={**self._left(), **self._left_by_nodes()},
            )
        )
        slowest = max(waits, key=lambda job: waits[job], default="none")
        return Report(
            seed=self._plan.seed,
            jobs=len(self._jobs),
            seconds=seconds,
            faults={str(kind): count for kind, count in injector.done.most_common()},
            missed={str(kind): count for kind, count in injector.missed.most_common()},
            ends=dict(Counter(one.state or "no record" for one in told.values())),
            attempts=sum(attempts.values()),
            most_attempts=max(attempts.values(), default=0),
            median=statistics.median(waits.values()) if waits else 0.0,
            slowest=waits.get(slowest, 0.0),
            slowest_job=slowest,
            violations=violations,
        )

    def _told(self, job: str) -> Told:
        client = self._client
        record: Mapping[str, str] = client.hgetall(f"cyxwiz:job:{job}")  # type: ignore[assignment]  # no client of asyncio's
        stored: dict[str, Any] = json.loads(client.get(f"cyxwiz:celery-task-meta-{job}") or "{}")  # type: ignore[arg-type]  # the same
        rows = [
            json.loads(fields["e"])
            for kind in ("history", "tail")
            for _, fields in client.xrange(f"cyxwiz:{kind}:{job}")  # type: ignore[union-attr]  # the same
        ]
        return Told(
            state=record.get("state", ""),
            reason=record.get("reason", ""),
            result=json.loads(record.get("result") or "{}"),
            celery=stored.get("status", ""),
            celery_result=stored.get("result"),
            events=sorted(rows, key=lambda row: row["seq"]),
        )


def _expected(job: Job) -> Expected:
    ends = {str(job.meant)}
    if job.meant is End.CANCELLED and not job.endless:
        ends.add("succeeded")  # it was faster
    return Expected(ends=frozenset(ends), needs=job.after)
