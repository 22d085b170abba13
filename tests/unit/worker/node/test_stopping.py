"""Each request to stop is stronger than the one before; time makes one of them."""

from __future__ import annotations

from configparser import ConfigParser
from pathlib import Path
from typing import cast

import pytest

from tasks.settings import Settings
from worker.config import NodeConfig
from worker.node import agent as agents
from worker.node import engine_care
from worker.node.agent import Agent
from worker.node.paths import NodePaths
from worker.node.registry import NodeState
from worker.node.slot_worker import SlotWorker
from worker.node.slots import MARGIN_S
from worker.node.standing import Standing
from worker.node.stop_bell import StopBell
from worker.node.stopping import Stopping, hand_back_s
from worker.store.policy import LAST_CHECKPOINT_S

pytestmark = pytest.mark.unit

UNIT = Path(__file__).parents[4] / "compose" / "cyxwiz-node.service"
REDIS_S = 5.0
"""A call of the agent's that Redis does not answer (`Settings.connect`)."""


class Told:
    """A slot's worker: keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def drain(self) -> None:
        self.told.append("drain")

    def quit(self, now: float) -> None:
        self.told.append("quit")

    def kill(self) -> None:
        self.told.append("kill")

    def leave(self, now: float, away: float) -> None:
        self.told.append(f"leave {away:g}")


class Stop:
    """A stop, and whom it tells."""

    def __init__(self, *, drain: float | None = None) -> None:
        self.bell = StopBell()
        self.said: list[str] = []
        self.standing = Standing((), NodePaths(state_dir=Path("/nowhere")), self.said.append)
        self.stopping = Stopping(self.bell, self.standing, drain=drain)
        self.worker = Told()

    def step(self, now: float) -> list[str]:
        """What the worker is told by it."""
        self.worker.told = []
        self.stopping.step(now, [cast("SlotWorker", self.worker)], away=300)
        return self.worker.told


def test_asked_again_it_is_stronger_and_says_each_thing_once() -> None:
    stop = Stop()
    assert stop.step(0) == []
    assert not stop.stopping.begun
    told, waits = [], []
    for number in range(4):
        stop.bell.ring()
        told.append(stop.step(number))
        waits.append(stop.stopping.waits)
        assert stop.step(number) == []
    assert told == [["drain"], ["quit"], ["kill"], []]
    assert waits == [True, False, False, False]
    assert stop.standing.state is NodeState.DRAINING
    assert len(stop.said) == 2
    assert not stop.stopping.leaves


def test_several_requests_at_once_skip_nothing() -> None:
    stop = Stop()
    stop.bell.ring()
    stop.bell.ring()
    assert stop.step(0) == ["drain", "quit"]


def test_a_drain_with_a_bound_ends_by_itself() -> None:
    stop = Stop(drain=5)
    stop.bell.ring()
    assert stop.step(10) == ["drain"]
    assert stop.stopping.wake_at() == 15
    assert stop.step(14.9) == []
    assert stop.step(15) == ["quit"]
    assert stop.stopping.wake_at() is None
    assert stop.step(16) == []


def test_jobs_that_are_left_are_not_handed_back_by_one_request_more() -> None:
    stop = Stop()
    stop.bell.leave()
    assert stop.step(0) == ["leave 300"]
    assert (stop.stopping.begun, stop.stopping.leaves) == (True, True)
    stop.bell.ring()
    assert stop.step(1) == []
    for _ in range(2):
        stop.bell.ring()
    assert stop.step(2) == ["kill"]


def test_jobs_can_still_be_left_while_they_are_waited_for_and_not_once_they_are_handed_back() -> (
    None
):
    stop = Stop()
    stop.bell.ring()
    assert stop.step(0) == ["drain"]
    stop.bell.leave()
    assert stop.step(1) == ["leave 300"]
    late = Stop()
    late.bell.ring()
    late.bell.ring()
    late.step(0)
    late.bell.leave()
    assert late.step(1) == []
    assert not late.stopping.leaves


@pytest.mark.parametrize(
    ("place", "more"),
    [(None, 0.0), ("/mnt/shared", 0.0), ("s3://bucket/checkpoints", LAST_CHECKPOINT_S)],
)
def test_a_worker_has_longer_than_its_job_and_the_last_checkpoint(
    tmp_path: Path, place: str | None, more: float
) -> None:
    config = NodeConfig.model_validate(
        {
            "node": {"state_dir": str(tmp_path)},
            "timeouts": {"stop_grace": 600.0},
            "storage": {"checkpoints": place},
        }
    )
    agent = Agent(config, Settings())
    assert agent._launch.kill_after == hand_back_s(config) > 600 + more


def test_a_stop_that_leaves_the_jobs_ends_before_the_unit_has_it_killed() -> None:
    """However many children hang, and while Redis and the engine do: what an agent waits for is
    its workers, then its engine, its last words to Redis, and the jobs that it still has to give
    back."""
    unit = ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]  # as its documentation says
    unit.read(UNIT)
    last_words = 3 * REDIS_S  # the reaper's lead, a heartbeat under way, the node's entry
    after = engine_care._ENDS_WITHIN_S + last_words + agents._GIVE_BACK_WITHIN
    assert MARGIN_S + after < unit.getfloat("Service", "TimeoutStopSec")
