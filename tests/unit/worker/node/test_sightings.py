"""What a reaper tells the next one."""

from __future__ import annotations

import pytest

from worker.node.sightings import Sightings

pytestmark = pytest.mark.unit


def test_ages_go_on_by_redis_clock() -> None:
    seen = Sightings(short_since=90.0, delivered={"old": 95.0, "new": 99.5})
    heard = Sightings.heard(seen.told(100.0, 50_000), 7.0, 53_000)
    assert heard == Sightings(short_since=7.0 - 13.0, delivered={"old": 7.0 - 8.0})


def test_a_clock_that_was_set_back_makes_nothing_younger() -> None:
    seen = Sightings(short_since=90.0)
    assert Sightings.heard(seen.told(100.0, 50_000), 0.0, 1).short_since == -10.0


def test_nothing_to_tell() -> None:
    assert Sightings(delivered={"new": 99.5}).told(100.0, 1) == ""


@pytest.mark.parametrize("text", [None, "", "{", "[]", "{}", '{"at": 1, "delivered": 5}'])
def test_what_cannot_be_read_is_nothing_seen(text: str | None) -> None:
    assert Sightings.heard(text, 1.0, 1) == Sightings()
