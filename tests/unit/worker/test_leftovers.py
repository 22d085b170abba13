"""A job is given back only once nothing of its attempt is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.recorded import Lease
from tasks.state import JobState
from worker import leftovers
from worker.keeper.settle import Settled, Settlement
from worker.leftovers import Leftovers
from worker.node.paths import NodePaths
from worker.note import Note

pytestmark = pytest.mark.unit


class Parts:
    """As much of a node's as ending an attempt needs."""

    def __init__(self, root: Path) -> None:
        self.paths = NodePaths(state_dir=root / "state")
        self.paths.create()
        self.place: Any = type("Place", (), {"slot": "cpu0", "node": "node-a"})
        self.records = None


@pytest.mark.parametrize(
    ("outcomes", "is_given_back"),
    [
        ([Settlement.SETTLED], True),
        ([Settlement.ALIVE, Settlement.SETTLED], True),
        ([Settlement.BLOCKED], False),
        ([Settlement.ALIVE, Settlement.ALIVE], False),
    ],
)
def test_what_resists_is_left_to_its_lease(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    outcomes: list[Settlement],
    is_given_back: bool,
) -> None:
    found, given = iter(outcomes), list[str]()

    def settle(directory: Path) -> Settled:
        return Settled(directory=directory, outcome=next(found))

    def give_back(_: object, note: Note, why: str) -> JobState:
        given.append(note.lease.job_id)
        return JobState.QUEUED

    monkeypatch.setattr(leftovers, "settle", settle)
    monkeypatch.setattr(leftovers, "end_keeper", lambda _: None)
    monkeypatch.setattr(leftovers, "give_back", give_back)
    parts: Any = Parts(tmp_path)
    work = parts.paths.work / "job~1"
    work.mkdir()
    note = Note(lease=Lease(job_id="job", owner="me", fence=1))
    Leftovers(parts, lambda _: None).end(parts.paths.attempts / "job~1", note, None)
    assert given == (["job"] if is_given_back else [])
    assert work.exists() != is_given_back, "something may still write there"
    assert list(found) == []
