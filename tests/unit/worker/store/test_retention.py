"""How long artefacts are kept."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from worker.store.retention import Retention

pytestmark = pytest.mark.unit


@pytest.fixture
def place(tmp_path: Path) -> Path:
    kept = tmp_path / "artifacts"
    for days, name in ((1, "young"), (8, "old")):
        directory = kept / name
        directory.mkdir(parents=True)
        (directory / "model.npz").write_bytes(b"x")
        then = time.time() - days * 86_400
        os.utime(directory, (then, then))
    return kept


def test_what_is_older_goes(place: Path) -> None:
    assert Retention(place=place, days=7).once() == ["old"]
    assert [one.name for one in place.iterdir()] == ["young"]
    assert Retention(place=place, days=7).once() == []


def test_none_is_for_ever(place: Path) -> None:
    assert Retention(place=place, days=0).once() == []
    assert (place / "old" / "model.npz").exists()


def test_a_link_is_not_followed(place: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine").write_text("x")
    os.utime(other, (0, 0))
    (place / "link").symlink_to(other)
    os.utime(place / "link", (0, 0), follow_symlinks=False)
    Retention(place=place, days=7).once()
    assert (other / "mine").read_text() == "x"
