"""What a node's earlier processes left: real keepers, real jobs."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.recorded import Lease
from tests.support.nodes import gone
from tests.support.runtimes import PYTHON
from tests.support.waiting import wait_until
from worker.devices.leases import LeaseFile, held
from worker.keeper import lock, secret_files
from worker.node.adoption import Leftovers
from worker.node.paths import NodePaths
from worker.note import Note, remember
from worker.plan import AttemptId, Grant, LaunchPlan, Limits
from worker.runtimes.native import NativeRuntime

pytestmark = pytest.mark.integration

ATTEMPT = AttemptId(job_id="job-1", fence=1)
NOTE = Note(lease=Lease(job_id="job-1", owner="me", fence=1), began=1.0, output=Path("/nowhere"))
_RUNS = "import os,sys,time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(600)"
_DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {_RUNS}"
_SPAWNS = f"""import os, time
if os.fork():
    time.sleep(600)
os.setsid()
{_RUNS}"""


class Node:
    """A node whose supervisor has gone; what it started goes on."""

    def __init__(self, root: Path) -> None:
        self.paths = NodePaths(state_dir=root / "state")
        self.paths.create()
        self.leftovers = Leftovers(self.paths)
        self.runtime = NativeRuntime(state_root=self.paths.state_dir, abandon_after=600)
        self.pid_file = root / "pid"

    def start(self, source: str) -> int:
        """Start the attempt and let go of it; the pid of its job."""
        lease = LeaseFile.acquire(self.paths.leases, "cpu0", {})
        assert lease is not None
        plan = LaunchPlan(
            attempt=ATTEMPT,
            argv=(PYTHON, "-S", "-c", source, str(self.pid_file)),
            env={},
            data=None,
            checkpoints=self.paths.job("job-1") / "checkpoints",
            output=self.paths.job("job-1") / "output",
            scratch=self.paths.scratch(ATTEMPT),
            state=self.paths.attempt(ATTEMPT),
            limits=Limits(),
            grant=Grant(slot="cpu0", fds=(lease.fd,)),
        )
        handle = self.runtime.start(plan, time.monotonic() + 600)
        lease.close()
        wait_until(
            lambda: self.pid_file.exists() and self.pid_file.read_text(), what="the job's start"
        )
        remember(plan.state, NOTE)
        handle.detach()
        return int(self.pid_file.read_text())

    @property
    def keeper(self) -> int:
        record = lock.read(self.paths.attempt(ATTEMPT))
        assert record is not None
        return record.pid

    def kill_keeper(self) -> None:
        keeper = self.keeper
        os.kill(keeper, signal.SIGKILL)
        wait_until(lambda: gone(keeper), what="the keeper's end")

    def nothing_left(self) -> bool:
        return (
            not self.paths.attempt(ATTEMPT).exists()
            and not self.paths.scratch(ATTEMPT).exists()
            and not held(self.paths.leases / "cpu0.lease")
        )


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    for handle in node.runtime.recover():
        handle.remove()
    node.runtime.close()


@pytest.mark.parametrize("source", [_RUNS, _DEAF], ids=["polite", "deaf"])
def test_a_node_that_stops_leaves_no_attempt(node: Node, source: str) -> None:
    job, keeper = node.start(source), node.keeper
    assert node.leftovers.end_all(grace=0.2) == ([NOTE], []), "its job can be given back"
    assert gone(job)
    assert gone(keeper)
    assert node.nothing_left()
    assert node.paths.job("job-1").exists(), "checkpoints and output outlive the attempt"


def test_a_keeper_that_does_not_answer_is_killed_with_its_job(node: Node) -> None:
    job, keeper = node.start(_RUNS), node.keeper
    os.kill(keeper, signal.SIGSTOP)
    assert node.leftovers.end_all(grace=0.1) == ([NOTE], [])
    assert gone(job)
    assert gone(keeper)
    assert node.nothing_left()


def test_a_live_keeper_is_left_to_whoever_takes_it_over(node: Node) -> None:
    job = node.start(_RUNS)
    node.leftovers.settle(busy=())
    node.leftovers.settle_slot("cpu0")
    node.leftovers.clear_work(None)
    assert not gone(job)
    assert node.paths.scratch(ATTEMPT).exists()


def test_what_a_dead_keeper_left_is_settled(node: Node) -> None:
    daemon = node.start(_SPAWNS)
    node.kill_keeper()
    node.leftovers.settle_slot("cpu1")
    assert node.paths.attempt(ATTEMPT).exists(), "another slot's"
    node.leftovers.settle_slot("cpu0")
    assert gone(daemon)
    assert node.nothing_left()


def test_a_slot_with_a_living_worker_is_that_workers_to_settle(node: Node) -> None:
    node.start(_RUNS)
    node.kill_keeper()
    node.leftovers.settle(busy={"cpu0"})
    assert node.paths.attempt(ATTEMPT).exists()
    node.leftovers.settle(busy={"cpu1"})
    assert node.nothing_left()


def test_an_attempt_that_was_never_recorded_is_removed_once_nobody_can_be_starting_it(
    node: Node,
) -> None:
    directory = node.paths.attempt(ATTEMPT)
    directory.mkdir()
    node.leftovers.settle(busy={"cpu1"})
    assert directory.exists()
    node.leftovers.settle(busy=())
    assert not directory.exists()


def test_one_that_was_begun_long_ago_is_removed_with_its_secrets_whoever_works(node: Node) -> None:
    """Its worker was killed before there was a keeper: no other slot ever rests to make sure."""
    directory = node.paths.attempt(ATTEMPT)
    directory.mkdir()
    secrets = node.paths.state_dir / "secrets"
    secrets.mkdir()
    (secrets / "token").write_text("s3cret")
    (directory / secret_files.NOTE).write_text(json.dumps({"place": str(secrets)}))
    guard = lock.take(directory)
    assert guard is not None
    os.utime(directory, (1_000, 1_000))
    node.leftovers.settle(busy={"cpu1"})
    assert directory.exists(), "somebody begins it"
    os.close(guard)
    node.leftovers.settle(busy={"cpu1"})
    assert not directory.exists()
    assert not secrets.exists()


def test_scratch_that_a_living_worker_may_have_made_stays(node: Node) -> None:
    old, new = node.paths.work / "old~1", node.paths.work / "new~1"
    old.mkdir()
    new.mkdir()
    os.utime(old, (1_000, 1_000))
    node.leftovers.clear_work(before=2_000)
    assert [path.name for path in node.paths.work.iterdir()] == ["new~1"]
    node.leftovers.clear_work(None)
    assert not list(node.paths.work.iterdir())


def test_what_is_put_aside_stays_while_the_slot_has_a_worker(node: Node) -> None:
    for slot in ("cpu0", "retired"):
        (node.paths.slot_temp(slot) / "pymp-x").mkdir(parents=True)
    node.leftovers.clear_temp(busy={"cpu0"})
    assert [path.name for path in node.paths.temp.iterdir()] == ["cpu0"]
    assert (node.paths.slot_temp("cpu0") / "pymp-x").exists()
    node.leftovers.clear_temp(busy=())
    assert not list(node.paths.temp.iterdir())
