"""Slots begin anew where what their node's engine is good for has changed, and only there."""

from __future__ import annotations

import pytest

from worker.engines import EngineState
from worker.node.engine_changes import EngineChanges
from worker.sandbox.engine_report import EngineFacts, EngineReport

pytestmark = pytest.mark.unit


def seen(name: str = "docker", *, available: bool = True, usable: bool = True) -> EngineState:
    facts = EngineFacts(name=name, version="1")
    return EngineState(chosen=EngineReport(facts=facts, available=available), usable=usable)


USABLE, UNFIT, AWAY = seen(), seen(usable=False), seen(available=False, usable=False)


@pytest.mark.parametrize(
    ("states", "anew"),
    [
        ([USABLE, USABLE], False),
        ([USABLE, UNFIT], True),
        ([UNFIT, USABLE], True),
        ([AWAY, USABLE], True),
        ([USABLE, seen("podman")], True),
        ([UNFIT, seen("podman", usable=False)], False),  # nothing was offered, and nothing is
        ([USABLE, AWAY], False),
        ([USABLE, AWAY, USABLE], False),
        ([USABLE, AWAY, UNFIT], True),
        ([EngineState(), USABLE], False),  # nobody had looked yet
        ([USABLE, EngineState()], False),
    ],
)
def test_when_slots_begin_anew(states: list[EngineState], anew: bool) -> None:
    changes = EngineChanges()
    assert [changes.step(state) for state in states][-1] is anew
