"""Where checkpoints lie, and when they go."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from worker.checkpoints import Checkpoints, Mark
from worker.node.paths import NodePaths

pytestmark = pytest.mark.unit


@pytest.fixture
def paths(tmp_path: Path) -> NodePaths:
    return NodePaths(state_dir=tmp_path / "state")


def test_on_the_node_unless_they_are_shared(paths: NodePaths, tmp_path: Path) -> None:
    assert Checkpoints(paths=paths).of("a") == paths.job("a") / "checkpoints"
    shared = tmp_path / "shared"
    assert Checkpoints(paths=paths, shared=shared).of("a") == shared / "a"


def test_the_end_of_a_job_removes_its_own_and_no_others(paths: NodePaths, tmp_path: Path) -> None:
    checkpoints = Checkpoints(paths=paths, shared=tmp_path / "shared")
    for job in ("a", "b"):
        checkpoints.of(job).mkdir(parents=True)
        (paths.job(job) / "output-1").mkdir(parents=True)
    checkpoints.drop("a")
    checkpoints.drop("never")
    assert [one.name for one in (tmp_path / "shared").iterdir()] == ["b"]
    assert [one.name for one in paths.jobs.iterdir()] == ["b"]


def test_what_is_empty_goes_unless_another_node_may_have_it(
    paths: NodePaths, tmp_path: Path
) -> None:
    own, shared = Checkpoints(paths=paths), Checkpoints(paths=paths, shared=tmp_path / "shared")
    for checkpoints in (own, shared):
        checkpoints.of("a").mkdir(parents=True)
        checkpoints.drop_empty("a")
    assert not paths.job("a").exists()
    assert shared.of("a").is_dir()
    own.of("b").mkdir(parents=True)
    (own.of("b") / "saved").touch()
    own.drop_empty("b")
    assert (own.of("b") / "saved").exists()


def test_only_those_of_jobs_that_are_over_or_long_unknown_are_forgotten(
    paths: NodePaths, tmp_path: Path
) -> None:
    shared = Checkpoints(paths=paths, shared=tmp_path / "shared")
    assert list(shared.forgotten(lambda job: True)) == []
    over: dict[str, bool | None] = {"done": True, "runs": False, "unknown": None, "old": None}
    for job in over:
        shared.of(job).mkdir(parents=True)
    weeks_ago = time.time() - 14 * 24 * 3600
    for job in ("runs", "old"):
        os.utime(shared.of(job), (weeks_ago, weeks_ago))
    assert sorted(shared.forgotten(over.__getitem__)) == ["done", "old"]
    assert list(Checkpoints(paths=paths).forgotten(over.__getitem__)) == []


def test_a_mark_names_nothing_but_files_of_checkpoints(paths: NodePaths) -> None:
    """What a native job has written over it."""
    checkpoints = Checkpoints(paths=paths)
    one = "0a" * 32
    foreign = [f"../b/{one}", f"/bucket/{one}", "", ".", one.upper(), one[1:], f"{one}\n", 7, None]
    checkpoints.write_mark("a", Mark(fence=3, names=frozenset({one})))
    assert checkpoints.mark("a") == Mark(fence=3, names=frozenset({one}))
    said = json.dumps({"fence": 4, "names": [*foreign, one]})
    (paths.job("a") / "sent.json").write_text(said)
    assert checkpoints.mark("a") == Mark(fence=4, names=frozenset({one}))
