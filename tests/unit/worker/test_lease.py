"""Times of a lease, and of the keeper that goes by it."""

from __future__ import annotations

import pytest

from worker.keeper.timers import Timers
from worker.lease import local_deadline, ttl_for

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("away", [1.0, 300.0, 86_400.0])
def test_what_is_left_lives_for_as_long_as_was_said_and_its_lease_for_longer(away: float) -> None:
    begun = 1_000.0
    timers = Timers(deadline=begun + 54, abandon_after=0.5, now=begun)
    ttl_ms = ttl_for(away)
    timers.beat(local_deadline(begun, ttl_ms), begun)
    timers.lost(begun)
    almost, lease = begun + away - 0.001, begun + ttl_ms / 1000
    assert not timers.expired(almost), "it stands still"
    assert not timers.abandoned(almost), "it is killed"
    assert timers.abandoned(begun + away * 1.05)
    assert lease > begun + away * 1.05, "another one may take it"
