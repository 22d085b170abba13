"""Which devices are joined, and when they are parted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.devices.planner import Demand, Serving, reshape

pytestmark = pytest.mark.unit


def narrow(number: int, busy: bool = False) -> Serving:
    return Serving(name=f"gpu{number}", devices=(f"g{number}",), busy=busy)


def far(one: str, other: str) -> int:
    """Pairs (0, 1), (2, 3), … are close."""
    return 10 if int(one[1:]) // 2 == int(other[1:]) // 2 else 50


def test_nothing_is_done_for_nobody() -> None:
    assert reshape([narrow(0), narrow(1)], []) == reshape([], [Demand(width=2)])


def test_idle_devices_that_are_close_are_joined_at_once() -> None:
    slots = [narrow(0, busy=True), narrow(1), narrow(2), narrow(3)]
    assert reshape(slots, [Demand(width=2)], distance=far).join == (("g2", "g3"),)


def test_busy_ones_are_held_back_only_for_one_that_has_waited() -> None:
    slots = [narrow(0, busy=True), narrow(1), narrow(2, busy=True)]
    assert reshape(slots, [Demand(width=2, age=5)]).join == ()
    (found,) = reshape(slots, [Demand(width=2, age=60)]).join
    assert found[0] == "g1", "what is idle comes first"
    assert len(found) == 2


def test_more_than_there_are_is_never_joined() -> None:
    assert reshape([narrow(0), narrow(1)], [Demand(width=3, age=999)]).join == ()


def test_the_oldest_comes_first() -> None:
    slots = [narrow(number) for number in range(4)]
    demand = [Demand(width=2, age=1), Demand(width=3, age=2)]
    assert [len(one) for one in reshape(slots, demand).join] == [3]


def test_a_wide_slot_stays_while_it_is_needed_or_busy() -> None:
    wide = Serving(name="gpu0-1", devices=("g0", "g1"))
    working = Serving(name="gpu0-1", devices=("g0", "g1"), busy=True)
    assert reshape([wide], []).part == ("gpu0-1",)
    assert reshape([working], []).part == ()
    needed = reshape([wide, narrow(2), narrow(3)], [Demand(width=2, jobs=1, age=99)])
    assert (needed.part, needed.join) == ((), ()), "it serves the one that waits"


@given(
    st.lists(st.booleans(), max_size=8),
    st.lists(
        st.builds(
            Demand,
            width=st.integers(1, 9),
            jobs=st.integers(0, 3),
            age=st.floats(0, 100),
        ),
        max_size=4,
        unique_by=lambda one: one.width,
    ),
)
def test_sets_are_whole_disjoint_and_asked_for(busy: list[bool], demand: list[Demand]) -> None:
    slots = [narrow(number, one) for number, one in enumerate(busy)]
    found = reshape(slots, demand, distance=far)
    taken = [device for one in found.join for device in one]
    assert len(set(taken)) == len(taken)
    assert set(taken) <= {f"g{number}" for number in range(len(busy))}
    for width in {len(one) for one in found.join}:
        (asked,) = [one for one in demand if one.width == width]
        assert width > 1
        assert sum(len(one) == width for one in found.join) <= asked.jobs
        if asked.age <= 30:
            used = [device for one in found.join if len(one) == width for device in one]
            assert not any(busy[int(device[1:])] for device in used)


@given(st.lists(st.booleans(), min_size=2, max_size=8))
def test_one_that_has_waited_long_enough_is_always_served(busy: list[bool]) -> None:
    slots = [narrow(number, one) for number, one in enumerate(busy)]
    assert len(reshape(slots, [Demand(width=len(busy), age=1000)]).join) == 1
