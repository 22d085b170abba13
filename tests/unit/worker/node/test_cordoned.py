"""What a node that shall take no job does with its slots' workers: real ones, of processes that
only keep what they were sent."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final, cast

import pytest

from tasks.cordons import Cordon
from worker.keeper import lock
from worker.node import retired, slot_records
from worker.node.cordoned import Cordoning
from worker.node.nursery import Newborn, Nursery
from worker.node.paths import NodePaths
from worker.node.processes import ProcessName, WatchedProcess
from worker.node.slot_worker import SlotWorker, WorkerState
from worker.node.slots import MARGIN_S, Launch, Slot

pytestmark = pytest.mark.unit

NO_PID: Final = 2**31 - 1
"""No process has it, and no group."""
GRACE_S: Final = 600.0


class Process:
    """A worker's: ends when the test says so."""

    def __init__(self, pid: int) -> None:
        self.name = ProcessName(pid=pid, start=1)
        self.ended = False
        self.sent: list[signal.Signals] = []

    def send(self, number: int) -> None:
        self.sent.append(signal.Signals(number))

    def collect(self) -> int:
        return -signal.SIGKILL

    def abandon(self) -> None:
        pass


class Born:
    """A worker that may begin."""

    def __init__(self, process: Process) -> None:
        self.process = cast("WatchedProcess", process)

    def go(self) -> None:
        pass


class Births:
    """Stands in for the nursery: keeps whom it bore, and as what."""

    def __init__(self) -> None:
        self.processes: list[Process] = []
        self.envs: list[dict[str, str]] = []

    def bear(self, argv: list[str], *, env: dict[str, str], output: int, name: str) -> Newborn:
        self.processes.append(Process(NO_PID - len(self.processes)))
        self.envs.append(env)
        return cast("Newborn", Born(self.processes[-1]))


class Node:
    """Its slots, stepped as an agent does it."""

    def __init__(self, paths: NodePaths, *configured: str, others: tuple[Slot, ...] = ()) -> None:
        self.paths = paths
        self.births = Births()
        self.launch = Launch(command=lambda slot: [], env={}, digest="d", kill_after=GRACE_S)
        slots = [*(Slot(name=name) for name in configured), *others]
        self.workers = [
            SlotWorker(slot, paths=paths, launch=self.launch, nursery=cast("Nursery", self.births))
            for slot in slots
        ]
        self.configured = self.workers[: len(configured)]
        self.cordoning = Cordoning(lambda: None)
        self.now = 0.0

    def told(self, cordon: Cordon | None) -> None:
        self.cordoning.told("" if cordon is None else cordon.to_json())

    def rounds(self, times: int = 3) -> None:
        for _ in range(times):
            self.now += 100
            self.cordoning.step(self.now, self.configured, self.workers)
            for worker in self.workers:
                worker.step(self.now)
            hands_back = self.cordoning.hands_back
            retired.step(self.now, self.paths, self.workers, hands_back=hands_back)

    def ready(self) -> None:
        """Those that were started take jobs."""
        for worker in self.workers:
            if worker.state is WorkerState.STARTING:
                self.paths.slot_ready(worker.slot.name).write_text(str(worker.pid))
        self.rounds(1)

    @property
    def states(self) -> list[WorkerState]:
        return [worker.state for worker in self.workers]

    def check_it_is_handed_back(self, times: int = 1) -> None:
        """By the last process, which is left alone until it has done so; as the ``times``-th."""
        self.rounds()
        self.ready()
        self.rounds()
        assert len(self.births.processes) == times
        assert self.births.envs[-1]["CYXWIZ_SLOT_HANDS_BACK"] == "1"
        assert self.births.envs[-1]["CYXWIZ_SLOT_RETIRED"] == "1"
        assert self.births.processes[-1].sent == []
        assert self.states == [WorkerState.READY]


@pytest.fixture
def paths(tmp_path: Path) -> NodePaths:
    paths = NodePaths(state_dir=tmp_path / "state")
    paths.create()
    return paths


@pytest.fixture
def attempt(paths: NodePaths) -> Iterator[list[int]]:
    """Of slot ``a``; it lives as long as the descriptor in the list."""
    directory = paths.attempts / "job~1"
    directory.mkdir()
    fd = lock.take(directory)
    assert fd is not None
    os.write(
        fd,
        b'{"job_id": "job", "fence": 1, "pid": 1, "start": 1, "slot": "a", "scratch": "/nowhere",'
        b' "leases": []}',
    )
    held = [fd]
    yield held
    for one in held:
        os.close(one)


OVER = Cordon(drain=0.0)


def test_what_a_node_ran_when_it_was_stopped_is_handed_back_when_it_comes_back_drained(
    paths: NodePaths, attempt: list[int]
) -> None:
    node = Node(paths, "a")
    node.told(OVER)
    node.check_it_is_handed_back()
    os.close(attempt.pop())
    node.rounds()
    assert node.births.processes[0].sent == [signal.SIGTERM], "it has done what it was for"


def test_a_worker_that_was_killed_just_before_the_drain(
    paths: NodePaths, attempt: list[int]
) -> None:
    node = Node(paths, "a")
    node.rounds()
    node.ready()
    node.births.processes[0].ended = True
    node.workers[0].step(node.now)
    assert node.states == [WorkerState.WAITING]
    node.told(OVER)
    node.check_it_is_handed_back(2)


def test_a_worker_that_is_killed_while_it_hands_its_job_back(
    paths: NodePaths, attempt: list[int]
) -> None:
    node = Node(paths, "a")
    node.rounds()
    node.ready()
    node.told(OVER)
    node.rounds(1)
    first = node.births.processes[0]
    assert first.sent == [signal.SIGTERM, signal.SIGQUIT]
    node.rounds(3)
    assert first.sent == [signal.SIGTERM, signal.SIGQUIT], "it is told once"
    node.rounds(round(GRACE_S / 100))
    assert first.sent[2:] == [signal.SIGKILL], "it took too long"
    first.ended = True
    node.check_it_is_handed_back(2)


def test_one_that_dies_while_it_hands_back_is_replaced_by_its_like(
    paths: NodePaths, attempt: list[int]
) -> None:
    node = Node(paths, "a")
    node.told(OVER)
    node.rounds()
    node.births.processes[0].ended = True
    node.check_it_is_handed_back(2)


def test_one_that_goes_on_with_a_job_hands_it_back_once_the_time_is_over(
    paths: NodePaths, attempt: list[int]
) -> None:
    node = Node(paths, "a")
    node.told(Cordon(drain=1000))
    node.rounds()
    node.ready()
    [first] = node.births.processes
    assert "CYXWIZ_SLOT_HANDS_BACK" not in node.births.envs[0]
    assert first.sent == []
    node.rounds(10)
    assert first.sent == [signal.SIGQUIT]
    first.ended = True  # it was told too early, and had not taken the job up
    node.check_it_is_handed_back(2)


def test_slots_that_are_not_configured_hand_back_too_and_never_serve(paths: NodePaths) -> None:
    """Wide ones, and those of before: their jobs have the same time."""
    node = Node(paths, "a", others=(Slot(name="wide"),))
    node.rounds()
    node.ready()
    own, wide = node.births.processes
    node.told(Cordon(drain=250))
    node.rounds(2)
    assert (own.sent, wide.sent) == ([signal.SIGTERM], []), "whoever has joined it parts it"
    node.rounds(2)
    assert own.sent[1:] == wide.sent == [signal.SIGQUIT]
    own.ended = wide.ended = True
    node.rounds()
    node.told(None)
    node.rounds()
    assert node.states == [WorkerState.STARTING, WorkerState.STOPPED]


@pytest.mark.parametrize("then", [None, Cordon(), Cordon(drain=1e6)])
def test_a_drain_is_over_when_something_else_is_asked(
    paths: NodePaths, then: Cordon | None
) -> None:
    node = Node(paths)
    node.told(OVER)
    node.rounds()
    assert node.cordoning.hands_back
    node.told(then)
    node.rounds()
    assert not node.cordoning.hands_back


def test_a_drains_time_is_kept_although_nothing_more_is_heeded(paths: NodePaths) -> None:
    """The node is stopped meanwhile, and waits for its jobs."""
    node = Node(paths, "a")
    node.rounds()
    node.ready()
    node.told(Cordon(drain=60.0))
    node.cordoning.step(node.now, node.configured, node.workers)
    due = node.cordoning.wake_at()
    assert due is not None
    node.told(None)
    node.cordoning.keep_time(due - 1, node.workers)
    assert not node.cordoning.hands_back
    node.cordoning.keep_time(due, node.workers)
    assert node.cordoning.hands_back
    assert node.cordoning.wake_at() is None, "or the agent would never rest again"
    [process] = node.births.processes
    assert signal.SIGQUIT in process.sent


def test_one_that_was_to_hand_back_and_has_not_begun_to_goes_on_after_an_uncordon(
    paths: NodePaths,
) -> None:
    node = Node(paths, others=(Slot(name="old"),))
    [worker] = node.workers
    worker.quit(0.0)
    worker.go_on(0.0, hands_back=True)
    assert (worker.state, worker.slot.hands_back) == (WorkerState.WAITING, True)
    node.told(Cordon(drain=0.0))
    node.cordoning.step(0.0, node.configured, node.workers)
    node.told(None)
    node.cordoning.step(1.0, node.configured, node.workers)
    assert not worker.slot.hands_back


def test_only_a_job_that_is_handed_back_has_its_grace(paths: NodePaths) -> None:
    """A worker that shall leave its job and hangs is waited for no longer than it takes to end."""
    node = Node(paths, "a", "b")
    node.rounds()
    node.ready()
    leaves, hands_back = node.workers
    leaves.leave(0.0, 300.0)
    hands_back.quit(0.0)
    assert slot_records.leaving(paths, "a") == 300.0
    assert (leaves.wake_at(0.0), hands_back.wake_at(0.0)) == (MARGIN_S, GRACE_S)
    for worker in node.workers:
        worker.step(MARGIN_S)
    ones, others = node.births.processes
    assert ones.sent == [signal.SIGQUIT, signal.SIGKILL]
    assert others.sent == [signal.SIGQUIT]
