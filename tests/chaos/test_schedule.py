"""A seed says what happens, and all of it."""

from __future__ import annotations

from itertools import islice

import pytest

from tests.chaos.schedule import End, Fault, Kind, faults, jobs

pytestmark = pytest.mark.unit


def first(seed: int, count: int, kinds: frozenset[Kind] = frozenset(Kind)) -> list[Fault]:
    return list(islice(faults(seed, nodes=3, ttl=3.0, every=0.5, kinds=kinds), count))


def test_a_seed_gives_the_same_run_again_and_another_seed_another() -> None:
    assert first(1, 200) == first(1, 200)
    assert first(1, 200) != first(2, 200)
    assert jobs(1, 200) == jobs(1, 200)
    assert jobs(1, 200) != jobs(2, 200)


def test_every_kind_of_fault_and_of_job_comes() -> None:
    assert {one.kind for one in first(1, 1000)} == set(Kind)
    made = jobs(1, 500)
    assert {one.meant for one in made} == set(End)
    assert {len(one.after) for one in made} == {0, 1, 2}
    assert len({one.id for one in made}) == 500
    assert {one.endless for one in made if one.meant is End.CANCELLED} == {True, False}
    assert not any(one.endless for one in made if one.meant is not End.CANCELLED)


def test_only_the_faults_that_are_asked_for_come() -> None:
    only = frozenset({Kind.KILL_CHILD, Kind.CLOCK})
    assert {one.kind for one in first(1, 100, only)} == only


def test_a_keeper_never_stands_still_for_as_long_as_a_lease_holds() -> None:
    stops = first(1, 300, frozenset({Kind.STOP_KEEPER}))
    assert max(one.lasts for one in stops) < 1.0
