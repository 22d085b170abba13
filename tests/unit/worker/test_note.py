"""The note by which an attempt is adopted: whole or not at all, and read across versions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.recorded import Lease
from worker.binding import UNBOUND
from worker.note import Note, recall, remember

pytestmark = pytest.mark.unit

LEASE = Lease(job_id="job-1", owner="cpu0@node-a:1:aa", fence=3)


def note() -> Note:
    return Note(
        lease=LEASE,
        began=12.5,
        output=Path("/state/jobs/job-1/output-3"),
        bound="0a" * 16,
        devices=("GPU-1",),
        about={"mode": "native"},
        started={"mode": "native", "devices": ["GPU-1"]},
    )


def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    remember(tmp_path, note())
    assert recall(tmp_path) == note()
    assert note().whole
    assert [path.name for path in tmp_path.iterdir()] == ["lease.json"]


def test_a_successor_has_another_owner_and_the_same_fence(tmp_path: Path) -> None:
    second = note().handed_to("cpu0@node-a:2:bb")
    third = second.handed_to("cpu0@node-a:3:cc")
    assert third.lease == Lease(job_id="job-1", owner="cpu0@node-a:3:cc", fence=3)
    assert third.former == ("cpu0@node-a:2:bb", LEASE.owner)
    remember(tmp_path, third)
    assert recall(tmp_path) == third


def test_what_a_version_before_adoption_wrote_names_the_lease_and_is_not_enough(
    tmp_path: Path,
) -> None:
    old = {"job_id": LEASE.job_id, "owner": LEASE.owner, "fence": LEASE.fence}
    (tmp_path / "lease.json").write_text(json.dumps(old))
    found = recall(tmp_path)
    assert found == Note(lease=LEASE)
    assert not found.whole


def test_what_a_newer_version_wrote_names_the_lease_at_least(tmp_path: Path) -> None:
    remember(tmp_path, note())
    file = tmp_path / "lease.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "v": 3, "more": True}))
    assert recall(tmp_path) == Note(lease=LEASE)


def test_a_version_before_bindings_had_none(tmp_path: Path) -> None:
    remember(tmp_path, note())
    file = tmp_path / "lease.json"
    said = json.loads(file.read_text())
    del said["bound"]
    file.write_text(json.dumps(said))
    assert recall(tmp_path) == replace(note(), bound=UNBOUND)


@pytest.mark.parametrize("bound", ["../other", "checkpoints", 7, None])
def test_what_is_no_binding_is_no_part_of_a_path(tmp_path: Path, bound: object) -> None:
    remember(tmp_path, note())
    file = tmp_path / "lease.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "bound": bound}))
    assert recall(tmp_path) == Note(lease=LEASE)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"job_id": "a"}'])
def test_nothing_that_can_be_understood(tmp_path: Path, text: str) -> None:
    (tmp_path / "lease.json").write_text(text)
    assert recall(tmp_path) is None


def test_none(tmp_path: Path) -> None:
    assert recall(tmp_path) is None
