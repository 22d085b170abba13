"""Where checkpoints lie, and when they go."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from worker.binding import UNBOUND, Binding
from worker.checkpoints import Checkpoints, Mark
from worker.node.paths import NodePaths

pytestmark = pytest.mark.unit


SIGNED, UNSIGNED = Binding(name="5" * 32, signed=True), Binding(name="0" * 32, signed=False)
OWN = UNSIGNED.name


@pytest.fixture
def paths(tmp_path: Path) -> NodePaths:
    return NodePaths(state_dir=tmp_path / "state")


def test_on_the_node_unless_they_are_shared(paths: NodePaths, tmp_path: Path) -> None:
    assert Checkpoints(paths=paths).of("a", OWN) == paths.job("a") / f"checkpoints-{OWN}"
    shared = tmp_path / "shared"
    assert Checkpoints(paths=paths, shared=shared).of("a", OWN) == shared / "a~" / OWN


@pytest.fixture(params=["node", "shared"])
def either(request: pytest.FixtureRequest, paths: NodePaths, tmp_path: Path) -> Checkpoints:
    """On a node, and shared."""
    shared = tmp_path / "shared"
    shared.mkdir()
    paths.jobs.mkdir(parents=True)
    return Checkpoints(paths=paths, shared=None if request.param == "node" else shared)


def leave(checkpoints: Checkpoints, bound: str, name: str) -> Path:
    place = checkpoints.of("a", bound)
    place.mkdir(parents=True)
    (place / name).symlink_to("/etc/passwd")
    return place


def names(place: Path) -> list[str]:
    return [one.name for one in place.iterdir()] if place.exists() else []


@pytest.mark.parametrize("bound", [UNBOUND, OWN, "6" * 32])
def test_a_signed_job_finds_nothing_of_another(either: Checkpoints, bound: str) -> None:
    place = leave(either, bound, "planted")
    assert either.begin("a", SIGNED)
    assert names(either.of("a", SIGNED.name)) == []
    assert not either.has_any("a", SIGNED.name)
    assert names(place) == ["planted"], "whose it is may go on from it"
    assert not either.begin("b", SIGNED), "another id is nobody's business"


def test_nobody_finds_what_a_signed_job_left(either: Checkpoints) -> None:
    place = leave(either, SIGNED.name, "secret")
    assert either.begin("a", UNSIGNED)
    assert names(either.of("a", OWN)) == []
    assert not either.begin("a", SIGNED), "but itself"
    assert names(either.of("a", SIGNED.name)) == ["secret"] == names(place)


def test_what_an_earlier_version_left_is_an_unsigned_jobs_own(either: Checkpoints) -> None:
    old = leave(either, UNBOUND, "saved")
    either.write_mark("a", UNBOUND, Mark(fence=3, names=frozenset({"0a" * 32})))
    assert not either.begin("a", UNSIGNED)
    assert names(either.of("a", OWN)) == ["saved"]
    if either.shared is not None:
        assert either.of("a", OWN).parent.stat().st_mode & 0o066 == 0, "nobody looks into it"
    assert not old.exists()
    # its fence says how new it is; what it sent is not where this one sends to
    assert either.mark("a", OWN) == Mark(fence=3)
    # a node of that version has run it once more: what this one has stays
    leave(either, UNBOUND, "again")
    assert either.begin("a", UNSIGNED)
    assert names(either.of("a", OWN)) == ["saved"]


def test_the_end_of_a_job_removes_its_own_and_no_others(paths: NodePaths, tmp_path: Path) -> None:
    checkpoints = Checkpoints(paths=paths, shared=tmp_path / "shared")
    for job in ("a", "b"):
        for bound in (UNBOUND, OWN, SIGNED.name):
            checkpoints.of(job, bound).mkdir(parents=True)
        (paths.job(job) / "output-1").mkdir(parents=True)
    checkpoints.drop("a")
    checkpoints.drop("never")
    assert sorted(one.name for one in (tmp_path / "shared").iterdir()) == ["b", "b~"]
    assert [one.name for one in paths.jobs.iterdir()] == ["b"]


def test_what_is_empty_goes_unless_another_node_may_have_it(
    paths: NodePaths, tmp_path: Path
) -> None:
    own, shared = Checkpoints(paths=paths), Checkpoints(paths=paths, shared=tmp_path / "shared")
    for checkpoints in (own, shared):
        checkpoints.of("a", OWN).mkdir(parents=True)
        checkpoints.write_mark("a", OWN, Mark(fence=1))
        checkpoints.drop_empty("a")
        assert not paths.job("a").exists()
    assert shared.of("a", OWN).is_dir()
    for bound in (UNBOUND, OWN, SIGNED.name):
        own.of("b", bound).mkdir(parents=True)
        own.write_mark("b", bound, Mark(fence=1))
    (own.of("b", OWN) / "saved").touch()
    own.drop_empty("b")
    assert sorted(names(paths.job("b"))) == [f"checkpoints-{OWN}", f"sent-{OWN}.json"]
    assert (own.of("b", OWN) / "saved").exists()


def test_an_engine_gets_through_whatever_the_nodes_umask_is(
    paths: NodePaths, tmp_path: Path
) -> None:
    shared = Checkpoints(paths=paths, shared=tmp_path / "shared")
    binding = Binding(name=OWN, signed=False)
    before = os.umask(0o077)
    try:
        shared.begin("a", binding)
        assert shared.of("a", OWN).parent.stat().st_mode & 0o777 == 0o711
        shared.of("a", OWN).parent.chmod(0o700)  # of a node that died in between
        shared.begin("a", binding)
    finally:
        os.umask(before)
    assert shared.of("a", OWN).parent.stat().st_mode & 0o777 == 0o711


def test_only_those_of_jobs_that_are_over_or_long_unknown_are_forgotten(
    paths: NodePaths, tmp_path: Path
) -> None:
    shared = Checkpoints(paths=paths, shared=tmp_path / "shared")
    assert list(shared.forgotten(lambda job: True)) == []
    over: dict[str, bool | None] = {"done": True, "runs": False, "unknown": None, "old": None}
    for job in over:
        for bound in (UNBOUND, OWN):
            shared.of(job, bound).mkdir(parents=True)
    weeks_ago = time.time() - 14 * 24 * 3600
    for job in ("runs", "old"):
        for place in (shared.of(job, UNBOUND), shared.of(job, OWN), shared.of(job, OWN).parent):
            os.utime(place, (weeks_ago, weeks_ago))
    (shared.of("old", UNBOUND) / "saved").symlink_to("nowhere")
    os.utime(shared.of("old", UNBOUND) / "saved", (weeks_ago, weeks_ago), follow_symlinks=False)
    os.utime(shared.of("old", UNBOUND), (weeks_ago, weeks_ago))
    # what it was last saved to is as old as the newest of its bindings
    os.utime(shared.of("unknown", OWN).parent, (weeks_ago, weeks_ago))
    assert sorted(shared.forgotten(over.__getitem__)) == ["done", "done", "old", "old"]
    assert list(Checkpoints(paths=paths).forgotten(over.__getitem__)) == []


def test_a_mark_names_nothing_but_files_of_checkpoints(paths: NodePaths) -> None:
    """What a native job has written over it."""
    checkpoints = Checkpoints(paths=paths)
    one = "0a" * 32
    foreign = [f"../b/{one}", f"/bucket/{one}", "", ".", one.upper(), one[1:], f"{one}\n", 7, None]
    checkpoints.write_mark("a", OWN, Mark(fence=3, names=frozenset({one})))
    assert checkpoints.mark("a", OWN) == Mark(fence=3, names=frozenset({one}))
    assert checkpoints.mark("a", SIGNED.name) == Mark()
    said = json.dumps({"fence": 4, "names": [*foreign, one]})
    (paths.job("a") / f"sent-{OWN}.json").write_text(said)
    assert checkpoints.mark("a", OWN) == Mark(fence=4, names=frozenset({one}))
