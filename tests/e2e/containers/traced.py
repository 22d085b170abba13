"""A job in a container that writes down each of its runs, where the test sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from celery.result import AsyncResult

from tasks.state import JobState
from tests.support.contained import Contained
from tests.support.waiting import wait_until

# Each attempt writes down that it began, in the directory that its successors see, and finds out
# whether another is at work there.
_SCRIPT: Final = """
import fcntl, os, pathlib, time
place = pathlib.Path("/job/checkpoints")
alone = open(place / "lock", "w")
with open(place / "trace", "a") as trace:
    try:
        fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        trace.write("TWICE ")
    trace.write("began ")
print("at work", flush=True)
while not (place / "go").exists():
    time.sleep(0.02)
with open(place / "trace", "a") as trace:
    trace.write("ended ")
(pathlib.Path("/job/output") / "trace").write_text((place / "trace").read_text())
"""


class Traced:
    """``shared``: storage.checkpoints of the node, where it has any. ``begins``: return once it
    runs."""

    def __init__(
        self,
        node: Contained,
        shared: Path | None = None,
        *,
        begins: bool = True,
        **config: object,
    ) -> None:
        self._node = node
        self.job: AsyncResult = node.cluster.command(_SCRIPT, **config)
        self.place = node.cluster.checkpoints(self.job, shared)
        if begins:
            self.wait_began(1)

    @property
    def runs(self) -> str:
        trace = self.place / "trace"
        return trace.read_text() if trace.exists() else ""

    def wait_began(self, times: int) -> None:
        wait_until(
            lambda: self.runs.count("began") >= times, timeout=60, what=f"attempt {times} began"
        )
        self._node.cluster.wait_state(self.job, JobState.RUNNING)

    @property
    def attempt(self) -> Path:
        """The state directory of the attempt that runs."""
        (found,) = self._node.node.paths.attempts.iterdir()
        return found

    def go(self) -> str:
        """Let it end; what its attempts wrote down."""
        (self.place / "go").touch()
        result = self.job.get(timeout=60)
        return (Path(result["artifacts_dir"]) / "trace").read_text()
