"""Jobs of attempts that are gone go back to the queue, now or when Redis is there again."""

from __future__ import annotations

import threading
from typing import Any, cast

import pytest
import redis

from tasks.errors import LeaseLost
from tasks.record import Records
from tasks.recorded import Lease
from tasks.state import JobState
from worker import giving_back
from worker.giving_back import GivingBack
from worker.note import Note

pytestmark = pytest.mark.unit


class Hub:
    """Records that only take jobs back."""

    def __init__(self, *, away: int = 0, owner: str = "me") -> None:
        """``away``: how many times Redis does not answer first."""
        self.leases = self
        self.given: list[tuple[str, str, bool]] = []
        self.asked = threading.Event()
        self._away = away
        self._owner = owner

    def requeue(self, lease: Lease, *_: object, message: str, counts: bool, **__: Any) -> JobState:
        self.asked.set()
        if self._away:
            self._away -= 1
            raise redis.ConnectionError
        if lease.owner != self._owner:
            raise LeaseLost
        self.given.append((lease.job_id, message, counts))
        return JobState.QUEUED


def giving(hub: Hub) -> GivingBack:
    return GivingBack(cast("Records", hub))


def note(job_id: str, *former: str) -> Note:
    return Note(lease=Lease(job_id=job_id, owner="me", fence=1), former=former)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(giving_back, "_AGAIN_S", 0.001)


def test_what_was_put_is_given_back_before_it_is_closed() -> None:
    hub = Hub(away=3)
    jobs = giving(hub)
    jobs.put(note("a"), "its keeper died")
    jobs.put(note("b"), "node stopped", counts=False)
    assert jobs.close(30)
    assert hub.given == [("a", "its keeper died", True), ("b", "node stopped", False)]


def test_the_record_may_still_name_an_owner_before() -> None:
    hub = Hub(owner="her")
    jobs = giving(hub)
    jobs.put(note("a", "them", "her"), "node stopped", counts=False)
    assert jobs.close(30)
    assert hub.given == [("a", "node stopped", False)]


def test_a_redis_that_stays_away_keeps_nobody_for_ever() -> None:
    hub = Hub(away=10**9)
    jobs = giving(hub)
    jobs.put(note("a"), "node stopped")
    assert hub.asked.wait(10)
    assert not jobs.close(0.01)
    hub._away = 0  # or its thread would go on for as long as the tests


def test_nothing_to_give_back_needs_no_redis() -> None:
    assert giving(Hub()).close(0)
