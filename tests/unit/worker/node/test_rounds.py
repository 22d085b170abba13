"""What is done again and again goes on after a fault, and ends when it is told to."""

from __future__ import annotations

import logging
import threading

import pytest

from worker.node.rounds import Rounds

pytestmark = pytest.mark.unit


def test_a_fault_is_said_and_costs_one_round(caplog: pytest.LogCaptureFixture) -> None:
    begun: list[int] = []
    third = threading.Event()

    def once() -> None:
        begun.append(len(begun))
        if len(begun) == 1:
            raise RuntimeError("not this time")
        if len(begun) == 3:
            third.set()

    rounds = Rounds("care", once, 0.001)
    with caplog.at_level(logging.ERROR):
        rounds.start()
        assert third.wait(10)
        rounds.stop()
    assert [record.getMessage() for record in caplog.records] == ["care.broken"]
    done = len(begun)
    rounds.stop()
    assert len(begun) == done


def test_whoever_waits_first_does_nothing_before_that() -> None:
    begun: list[int] = []
    rounds = Rounds("care", lambda: begun.append(1), 3600, at_once=False)
    rounds.start()
    assert not rounds.stopping
    rounds.stop()
    assert rounds.stopping
    assert begun == []


def test_it_can_be_stopped_before_it_was_started() -> None:
    Rounds("care", lambda: None, 3600).stop()


def test_a_round_that_hangs_holds_nobody_up_for_longer_than_is_said() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def once() -> None:
        begun.set()
        go_on.wait(10)

    rounds = Rounds("care", once, 3600)
    rounds.start()
    assert begun.wait(10)
    rounds.stop(0.01)
    assert rounds.stopping
    go_on.set()
    rounds.stop()
