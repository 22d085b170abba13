"""A job that prints numbered lines until it is told to end, and what must be true of its events."""

from __future__ import annotations

import re
from pathlib import Path

from celery.result import AsyncResult

from tasks.events import Envelope, Log, Progress
from tests.support.cluster import Cluster
from tests.support.waiting import wait_until

LONG = {"lease_ttl": 60.0, "lease_grace": 30.0}
"""No lease runs out meanwhile, however slow the host is."""

# Prints numbered lines on both streams, and progress, until the file "go" is there. Its result
# names the process.
TALKS = """
import json, os, sys, time
go = sys.argv[1]
every = float(sys.argv[2])
report = {"type": "progress", "epoch": 1, "total_epochs": 9, "pid": os.getpid()}
print(json.dumps(report), flush=True)
number = 0
while True:
    last = os.path.exists(go)
    print(f"out {number}", flush=True)
    print(f"err {number}", file=sys.stderr, flush=True)
    number += 1
    if last:
        break
    time.sleep(every)
metrics = {"pid": os.getpid(), "lines": number}
print(json.dumps({"type": "complete", "success": True, "metrics": metrics}), flush=True)
open(go + ".over", "w").close()
time.sleep(float(sys.argv[3]))
"""


class Talker:
    """A job that prints, on one node."""

    def __init__(self, cluster: Cluster, directory: Path, *, every: float = 0.05) -> None:
        self.cluster = cluster
        self.go = directory / "go"
        self.every = every
        self.linger = 0.0

    def config(self) -> dict[str, object]:
        program = ["python3", "-c", TALKS, str(self.go), str(self.every), str(self.linger)]
        return {"command": program}

    def submit(self) -> AsyncResult:
        job = self.cluster.submit(self.config())
        self.wait_heard(job, 3)
        return job

    def heard(self, job: AsyncResult) -> int:
        """How many lines were published."""
        client = self.cluster.app.records.client
        return int(client.xlen(self.cluster.settings.keys.tail(job.id)))

    def wait_heard(self, job: AsyncResult, more: int) -> None:
        before = self.heard(job)
        wait_until(lambda: self.heard(job) >= before + more, timeout=30, what="news of the job")

    def finish(self, job: AsyncResult) -> dict[str, object]:
        self.go.touch()
        result: dict[str, object] = job.get(timeout=60)
        return result


def lines(found: list[Envelope], stream: str) -> list[int]:
    return [
        int(line.split()[1])
        for one in found
        if isinstance(one.event, Log) and one.event.stream == stream
        for line in one.event.lines
        if re.fullmatch(r"(out|err) \d+", line)
    ]


def check_whole(cluster: Cluster, job: AsyncResult, result: dict[str, object]) -> None:
    """Every line once and in order, every event numbered, one start, one end; the same process."""
    found = cluster.events(job)
    assert [one.seq for one in found] == list(range(1, len(found) + 1))
    metrics = result["metrics"]
    assert isinstance(metrics, dict)
    printed = list(range(int(metrics["lines"])))
    assert lines(found, "stdout") == printed
    assert lines(found, "stderr") == printed
    kinds = [one.type for one in found]
    assert (kinds.count("started"), kinds.count("succeeded"), kinds.count("retrying")) == (1, 1, 0)
    [progress] = [one.event for one in found if isinstance(one.event, Progress)]
    assert progress.metrics["pid"] == metrics["pid"]
    assert result["attempt"] == 1


def logs(cluster: Cluster) -> str:
    return "".join(path.read_text() for path in cluster.node.paths.logs.glob("*.log"))
