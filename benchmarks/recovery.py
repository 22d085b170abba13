"""How long a job is without a supervisor, or without a node, when these are killed.

From kill -9 of a slot's worker until the record names another owner: the first death of each of
several workers, since one that dies again at once is started later each time. Beside it, how long
a bare Celery worker takes from its start until it is ready: no successor can be there sooner.

From kill -9 of all that a node has until its job runs on another one, with a short lease: the bound
is that of any other lease, TTL + grace + 10 s.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from celery import Celery

from benchmarks import support
from benchmarks.report import Measure, Report, main
from tasks.control import cancel
from tasks.keys import Keys
from tasks.publishing import TRAIN
from worker.node.paths import NodePaths

SLOTS: Final = 5
"""So many workers are killed, once each."""
NODES_LOST: Final = 3
ADOPTED_WITHIN_S: Final = 3.0
"""What the median may be."""
TTL_S: Final = 4.0
GRACE_S: Final = TTL_S / 4
"""How long others leave an expired lease alone."""
ELSEWHERE_WITHIN_S: Final = TTL_S + GRACE_S + 10.0
WAIT_S: Final = 60.0
"""Then there is nothing to measure."""
JOB: Final = {
    "command": [sys.executable, "-S", "-c", "import time\nwhile True: time.sleep(0.1)"],
    "max_attempts": 10 * NODES_LOST,
}


def adopted(url: str) -> list[float]:
    """Seconds from the kill of each slot's worker until its job has another owner."""
    found = []
    with support.product_node(url, slots=SLOTS) as (node, app):
        jobs = [app.send_task(TRAIN, [JOB]).id for _ in range(SLOTS)]
        for job in jobs:
            running(app, job)
        for job in jobs:
            before = running(app, job)
            os.kill(worker_of(node, before["slot"]), signal.SIGKILL)
            killed = time.monotonic()
            running(app, job, unlike=("owner", before["owner"]))
            found.append(time.monotonic() - killed)
        end(app, jobs)
    return found


def elsewhere(url: str) -> list[float]:
    """Seconds from the loss of a job's node until it runs on another one."""
    found = []
    short = {"lease_ttl": TTL_S, "lease_grace": GRACE_S}
    with ExitStack() as nodes:

        def start(name: str) -> tuple[subprocess.Popen[bytes], Celery]:
            return nodes.enter_context(
                support.product_node(url, slots=1, name=name, timeouts=short)
            )

        first, app = start("node-0")
        up = {"node-0": first}
        job = app.send_task(TRAIN, [JOB]).id
        for number in range(1, NODES_LOST + 1):
            before = running(app, job)["node"]
            up[f"node-{number}"], _ = start(f"node-{number}")
            support.lose(up[before])
            lost = time.monotonic()
            running(app, job, unlike=("node", before))
            found.append(time.monotonic() - lost)
        end(app, [job])
    return found


def running(app: Celery, job: str, unlike: tuple[str, str] = ("owner", "")) -> dict[str, Any]:
    """The job's record, once it runs and that field of it is another one.

    Raises TimeoutError.
    """
    keys: Keys = app.hub.keys
    field, old = unlike
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        record: dict[str, Any] = app.records.client.hgetall(keys.job(job))
        if record.get("state") == "running" and record.get(field, "") not in ("", old):
            return record
        time.sleep(0.005)
    raise TimeoutError(f"{job} does not run: {record}")


def end(app: Celery, jobs: list[str]) -> None:
    """Cancel them, and wait for it: a node that ends would hand them back first."""
    for job in jobs:
        cancel(job, app=app)
    support.wait_for(lambda: all(app.records.get(job).state.terminal for job in jobs))


def worker_of(node: subprocess.Popen[bytes], slot: str) -> int:
    """The pid of the slot's Celery worker, as it has written it down."""
    assert isinstance(node.args, list)
    paths = NodePaths(state_dir=Path(node.args[-1]).parent / "state")
    return int(paths.slot_ready(slot).read_text())


def bare_start(url: str) -> float:
    """Seconds from the start of a bare worker until it is ready."""
    begun = time.monotonic()
    with support.bare_workers(url, workers=1, children=1):
        return time.monotonic() - begun


def measure() -> Report:
    """Run it."""
    with support.redis_hub() as url:
        ours = adopted(url)
        bare = statistics.median(bare_start(url) for _ in range(3))
    with support.redis_hub() as url:
        lost = elsewhere(url)
    median = statistics.median(ours)
    return Report(
        name=Path(__file__).stem,
        figures={
            "kill -9 of a worker to adopted: median, s": median,
            "kill -9 of a worker to adopted: longest, s": max(ours),
            "a bare worker's start: median, s": bare,
            "adopted over a bare start": median / bare,
            "lease TTL, s": TTL_S,
            "kill -9 of a node to elsewhere: median, s": statistics.median(lost),
            "kill -9 of a node to elsewhere: longest, s": max(lost),
        },
        measures=(
            Measure(
                name=f"adopted: median over {ADOPTED_WITHIN_S:g} s",
                ratio=median / ADOPTED_WITHIN_S,
                bound=1.0,
                at_most=True,
            ),
            Measure(
                name="elsewhere: longest over TTL + grace + 10 s",
                ratio=max(lost) / ELSEWHERE_WITHIN_S,
                bound=1.0,
                at_most=True,
            ),
        ),
    )


if __name__ == "__main__":
    main(measure)
