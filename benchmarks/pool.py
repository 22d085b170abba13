"""The pool of devices: what a grant costs, and how soon a dead holder's devices are given again.

Acquire and release of one of eight devices while nobody else wants any, against 1 ms; and, from
SIGKILL of the keeper that holds them to the next grant of all of them: with a native job against
50 ms, with a container against the engine's own removal of one like it and 100 ms more.

Needs root and dockerd for the container: it runs on a private engine.
"""

from __future__ import annotations

import os
import signal
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import report, support
from benchmarks.report import Measure, Report
from tests.integration.devices.node import Node
from tests.integration.engine.jobs import LIMITS, Jobs
from tests.support import dockerd, engine
from tests.support.runtimes import soon
from worker.devices.inventory import Device, StaticInventory
from worker.keeper import lock
from worker.plan import AttemptId, Grant

DEVICES = 8
GRANTS = 2000
WARM_UP = 100
KILLS = 20
CONTAINERS = 6
SLEEPS = "import time; time.sleep(600)"
GRANT_MS, NATIVE_MS, CONTAINER_MS = 1.0, 50.0, 100.0


def node_in(place: Path) -> Node:
    devices = [
        Device(uuid=f"dev-{number}", index=number, memory_mb=80_000, tells_processes=False)
        for number in range(DEVICES)
    ]
    return Node(place, inventory=StaticInventory(devices), abandon_after=60)


def grants(place: Path) -> list[float]:
    """Milliseconds of each acquire + release."""
    from worker.devices.allocation import Request

    pool = node_in(place).pool()
    found = []
    for number in range(WARM_UP + GRANTS):
        began = time.perf_counter()
        pool.grant("gpu0", Request()).release()
        if number >= WARM_UP:
            found.append((time.perf_counter() - began) * 1000)
    return found


def after_a_kill(node: Node, directory: Path) -> float:
    """Milliseconds from SIGKILL of the attempt's keeper to the grant of all devices."""
    record = lock.read(directory)
    assert record is not None
    began = time.perf_counter()
    os.kill(record.pid, signal.SIGKILL)
    with node.take(DEVICES, timeout=30):
        return (time.perf_counter() - began) * 1000


def native(place: Path) -> list[float]:
    node = node_in(place)
    found = []
    try:
        for _ in range(KILLS):
            handle, plan = node.start(SLEEPS, DEVICES)
            handle.detach()
            found.append(after_a_kill(node, plan.state))
    finally:
        node.close()
    return found


def contained(place: Path, jobs: Jobs, raw: Any) -> tuple[list[float], list[float]]:
    """Ours, and the engine's own removal of a container like it, by turns."""
    node = node_in(place)
    ours, bare = [], []
    try:
        for number in range(CONTAINERS):
            attempt = AttemptId(job_id=f"held{number}", fence=1)
            held = node.take(DEVICES, attempt=str(attempt))
            plan = replace(
                jobs.plan(SLEEPS, limits=LIMITS),
                attempt=attempt,
                state=node.attempts / str(attempt),
                grant=Grant(slot="gpu0", fds=held.grant.fds),
            )
            handle = jobs.runtime.start(plan, soon())
            held.release()
            handle.detach()
            ours.append(after_a_kill(node, plan.state))
            alike = raw.create_container_from_config(
                jobs.runtime.starting.asked(plan, jobs.runtime.images.present(engine.BASE)), None
            )["Id"]
            raw.start(alike)
            began = time.perf_counter()
            raw.remove_container(alike, v=True, force=True)
            bare.append((time.perf_counter() - began) * 1000)
    finally:
        node.close()
    return ours, bare


def measure() -> Report:
    """Run it."""
    with support.scratch() as name:
        place = Path(name)
        taken = grants(place / "grants")
        killed = native(place / "native")
        with dockerd.Dockerd() as started:
            engine.import_base(started.socket)
            jobs, raw = Jobs(place / "contained", started.socket), engine.raw(started.socket)
            jobs.runtime.prepare(engine.BASE, lambda _: None)
            try:
                ours, bare = contained(place / "contained", jobs, raw)
            finally:
                raw.close()
                jobs.close()
    grant, kill = statistics.median(taken), statistics.median(killed)
    container, removal = statistics.median(ours), statistics.median(bare)
    return Report(
        name="pool",
        figures={
            "acquire + release, p10 ms": support.percentile(taken, 0.1),
            "acquire + release, p50 ms": grant,
            "acquire + release, p99 ms": support.percentile(taken, 0.99),
            "kill -9 to the next grant, native, least ms": min(killed),
            "kill -9 to the next grant, native, p50 ms": kill,
            "kill -9 to the next grant, native, most ms": max(killed),
            "kill -9 to the next grant, container, p50 ms": container,
            "the engine's own removal, p50 ms": removal,
        },
        measures=(
            Measure(name="grant / 1 ms", ratio=grant / GRANT_MS, bound=1.0, at_most=True),
            Measure(name="native / 50 ms", ratio=kill / NATIVE_MS, bound=1.0, at_most=True),
            Measure(
                name="container / (removal + 100 ms)",
                ratio=container / (removal + CONTAINER_MS),
                bound=1.0,
                at_most=True,
            ),
        ),
    )


if __name__ == "__main__":
    report.main(measure)
