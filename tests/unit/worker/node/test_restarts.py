"""When a slot worker that ended is started again."""

from __future__ import annotations

import pytest

from worker.node.restarts import RestartPolicy

pytestmark = pytest.mark.unit
POLICY = RestartPolicy(first=0.5, most=60.0, steady=30.0, crash_loop=3)


def test_each_short_life_doubles_the_wait_up_to_a_bound() -> None:
    assert [POLICY.delay(n) for n in (1, 2, 3, 4)] == [0.5, 1.0, 2.0, 4.0]
    assert POLICY.delay(8) == 60.0
    assert POLICY.delay(10_000) == 60.0


def test_a_long_life_starts_the_count_anew() -> None:
    assert POLICY.failures(7, uptime=29.9) == 8
    assert POLICY.failures(7, uptime=30.0) == 1


def test_a_crash_loop_is_three_short_lives_in_a_row() -> None:
    assert [POLICY.crash_looping(n) for n in (1, 2, 3, 4)] == [False, False, True, True]
