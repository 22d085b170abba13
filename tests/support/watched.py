"""A job that writes down each of its runs, and whether two were ever at work at once."""

from __future__ import annotations

from pathlib import Path

from celery.result import AsyncResult

from tasks.state import JobState
from tests.support.cluster import Cluster
from tests.support.waiting import wait_until

# Every attempt writes that it began, and finds out whether another one is at work. It goes on
# until the file "go" is there.
SCRIPT = """
import fcntl, os, sys, time
trace = os.environ["TRACE"]
alone = open(trace + ".lock", "w")
try:
    fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    open(trace, "a").write("TWICE ")
open(trace, "a").write("began ")
print("at work", flush=True)
while not os.path.exists(trace + ".go"):
    time.sleep(0.02)
open(trace, "a").write("ended ")
"""


class Watched:
    """A submitted job that writes down each of its runs."""

    def __init__(self, cluster: Cluster, directory: Path, **config: object) -> None:
        self._cluster = cluster
        self.trace = directory / "trace"
        self.trace.touch()
        self.job: AsyncResult = cluster.command(SCRIPT, env={"TRACE": str(self.trace)}, **config)
        self.wait_began(1)

    @property
    def runs(self) -> str:
        return self.trace.read_text()

    def wait_began(self, times: int) -> None:
        wait_until(
            lambda: self.runs.count("began") >= times, timeout=30, what=f"attempt {times} began"
        )
        wait_until(lambda: self._cluster.record(self.job).state is JobState.RUNNING, what="it runs")

    def go(self) -> dict[str, object]:
        """Let it end; its result."""
        self.trace.with_name("trace.go").touch()
        result: dict[str, object] = self.job.get(timeout=60)
        return result

    def ends(self, *, attempt: int = 1, runs: int = 1) -> None:
        """Let it end, as this attempt, in the last of so many runs, of which no two were at once;
        nothing stays of it."""
        assert self.go()["attempt"] == attempt
        assert self.runs == "began " * runs + "ended "
        self._cluster.wait_clean()
