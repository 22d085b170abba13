"""How long a running job has no supervisor: from kill -9 of its slot's worker to its adoption.

Beside it, how long a bare Celery worker takes from its start until it is ready: no successor can be
there sooner.
"""

from __future__ import annotations

import os
import signal
import statistics
import sys
import time
from pathlib import Path

from celery import Celery

from benchmarks import support
from benchmarks.report import Measure, Report, main
from tasks.publishing import TRAIN
from worker.keeper import procfs

TIMES = 7
WITHIN_S = 3.0
"""What the median may be."""
_JOB = "import time\nwhile True: time.sleep(0.1)"


def adopted(agent: int, app: Celery) -> list[float]:
    """Seconds from each kill until the record names another owner."""
    job = app.send_task(TRAIN, [{"command": [sys.executable, "-S", "-c", _JOB]}])
    key, client = app.hub.keys.job(job.id), app.hub.connect()
    found = []
    try:
        before = _next_owner(client, key, "")
        for _ in range(TIMES):
            time.sleep(1.0)  # a worker that has just started is not what is measured
            os.kill(_worker(agent), signal.SIGKILL)
            killed = time.monotonic()
            before = _next_owner(client, key, before)
            found.append(time.monotonic() - killed)
        app.control.revoke(job.id)
    finally:
        client.close()
    return found


def _next_owner(client: object, key: str, before: str) -> str:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        owner = str(client.hget(key, "owner") or "")  # type: ignore[attr-defined]  # a client
        state = client.hget(key, "state")  # type: ignore[attr-defined]
        if owner not in ("", before) and state == "running":
            return owner
        time.sleep(0.002)
    raise TimeoutError("nobody has the job")


def _worker(agent: int) -> int:
    """The slot's Celery worker: the agent's child that is one."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for pid in procfs.children(agent) or ():
            if b"celery" in (procfs.read_bytes(f"/proc/{pid}/cmdline") or b""):
                return pid
        time.sleep(0.01)
    raise TimeoutError("the slot has no worker")


def bare_start(url: str) -> float:
    """Seconds from the start of a bare worker until it is ready."""
    begun = time.monotonic()
    with support.bare_workers(url, workers=1, children=1):
        return time.monotonic() - begun


def measure() -> Report:
    """Run it."""
    with support.redis_hub() as url, support.product_node(url, slots=1) as (node, app):
        ours = adopted(node.pid, app)
        bare = statistics.median(bare_start(url) for _ in range(3))
    median = statistics.median(ours)
    return Report(
        name=Path(__file__).stem,
        figures={
            "kill -9 to adopted: median, s": median,
            "kill -9 to adopted: longest, s": max(ours),
            "a bare worker's start: median, s": bare,
            "adopted over a bare start": median / bare,
        },
        measures=(
            Measure(
                name=f"median over {WITHIN_S:g} s", ratio=median / WITHIN_S, bound=1.0, at_most=True
            ),
        ),
    )


if __name__ == "__main__":
    main(measure)
