"""The strategies, by their properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.devices.inventory import Device
from worker.devices.strategy import Candidate, Strategy, ordered, pick

pytestmark = pytest.mark.unit

USERS = ("", "ada", "ben")


@st.composite
def candidates(draw: st.DrawFn) -> list[Candidate]:
    number = draw(st.integers(0, 7))
    return [
        Candidate(
            device=Device(
                uuid=f"gpu-{index}",
                index=index,
                utilisation=draw(st.none() | st.integers(0, 100)),
                used_mb=draw(st.integers(0, 1000)),
            ),
            jobs=draw(st.integers(0, 3)),
            free_mb=draw(st.integers(0, 1000)),
            given=draw(st.integers(0, 5)),
            last_user=draw(st.sampled_from(USERS)),
        )
        for index in range(number)
    ]


def far(one: str, other: str) -> int:
    """Pairs (0, 1), (2, 3), … are close."""
    return 10 if int(one[4:]) // 2 == int(other[4:]) // 2 else 50


@given(st.sampled_from(Strategy), candidates(), st.sampled_from(USERS))
def test_an_order_loses_and_invents_nothing(
    strategy: Strategy, given_: list[Candidate], user: str
) -> None:
    found = ordered(strategy, given_, user)
    assert sorted(one.uuid for one in found) == sorted(one.uuid for one in given_)
    assert ordered(strategy, given_, user) == found


@given(st.sampled_from(Strategy), candidates(), st.integers(0, 9), st.sampled_from(USERS))
def test_it_is_all_or_none(
    strategy: Strategy, given_: list[Candidate], count: int, user: str
) -> None:
    found = pick(strategy, given_, count, user=user, distance=far)
    assert len(found) in {0, count}
    assert bool(found) == (0 < count <= len(given_))
    assert len({one.uuid for one in found}) == len(found)


@given(candidates())
def test_least_utilized_has_the_fewest_jobs(given_: list[Candidate]) -> None:
    for one in pick(Strategy.LEAST_UTILIZED, given_, 1):
        assert one.jobs == min(other.jobs for other in given_)


@given(candidates())
def test_most_memory_has_the_most(given_: list[Candidate]) -> None:
    for one in pick(Strategy.MOST_MEMORY, given_, 1):
        assert one.free_mb == max(other.free_mb for other in given_)


@given(candidates())
def test_round_robin_takes_what_was_given_longest_ago(given_: list[Candidate]) -> None:
    for one in pick(Strategy.ROUND_ROBIN, given_, 1):
        assert one.given == min(other.given for other in given_)


@given(candidates(), st.sampled_from(USERS))
def test_affinity_goes_back_to_the_users_device(given_: list[Candidate], user: str) -> None:
    own = [one for one in given_ if user and one.last_user == user]
    found = pick(Strategy.AFFINITY, given_, 1, user=user)
    if own:
        assert found[0].last_user == user
    else:
        assert found == pick(Strategy.LEAST_UTILIZED, given_, 1)


@given(candidates())
def test_first_available_is_the_drivers_first(given_: list[Candidate]) -> None:
    assert ordered(Strategy.FIRST_AVAILABLE, list(reversed(given_))) == given_


def test_round_robin_goes_round() -> None:
    given_ = {f"gpu-{number}": 0 for number in range(3)}
    seen = []
    for turn in range(1, 7):
        choices = [
            Candidate(device=Device(uuid=uuid, index=int(uuid[4:])), given=last)
            for uuid, last in given_.items()
        ]
        one = pick(Strategy.ROUND_ROBIN, choices, 1)[0]
        given_[one.uuid] = turn
        seen.append(one.device.index)
    assert seen == [0, 1, 2, 0, 1, 2]


@given(st.sets(st.integers(0, 7), min_size=2))
def test_two_that_are_close_go_together(numbers: set[int]) -> None:
    choices = [Candidate(device=Device(uuid=f"gpu-{n}", index=n)) for n in sorted(numbers)]
    one, other = pick(Strategy.FIRST_AVAILABLE, choices, 2, distance=far)
    possible = any(n ^ 1 in numbers for n in numbers)
    assert (far(one.uuid, other.uuid) == 10) is possible
