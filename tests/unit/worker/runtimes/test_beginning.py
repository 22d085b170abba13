"""The directories of an attempt that begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.errors import RuntimeUnavailable
from tests.support.runtimes import Places
from worker.keeper import lock
from worker.plan import LaunchPlan, Limits
from worker.runtimes.beginning import beginning

pytestmark = pytest.mark.unit

OWNER = (0, 0)


@pytest.fixture
def plan(tmp_path: Path) -> LaunchPlan:
    return Places(root=tmp_path).plan(("true",), Limits())


def directories(plan: LaunchPlan) -> tuple[Path, ...]:
    return plan.state, plan.scratch, plan.checkpoints, plan.output


def leave(plan: LaunchPlan) -> None:
    """As an attempt of the same name left them, that nobody cleared up after."""
    for directory in (plan.checkpoints, plan.output, plan.scratch):
        (directory / "deep").mkdir(parents=True)
        (directory / "deep" / "left").touch()
        (directory / "away").symlink_to("/etc/passwd")
        (directory / "deep").chmod(0o500)


def test_what_an_attempt_of_the_same_name_left_is_found_in_its_checkpoints_alone(
    plan: LaunchPlan,
) -> None:
    leave(plan)
    with beginning(plan, directories(plan), OWNER):
        assert [*plan.output.iterdir()] == []
        assert [*plan.scratch.iterdir()] == []
        assert (plan.checkpoints / "deep" / "left").exists()
    assert Path("/etc/passwd").stat().st_size


def test_what_another_keeper_has_is_left_alone(plan: LaunchPlan) -> None:
    leave(plan)
    plan.state.mkdir(parents=True)
    assert lock.take(plan.state) is not None
    with (
        pytest.raises(RuntimeUnavailable, match="another keeper"),
        beginning(plan, directories(plan), OWNER),
    ):
        pytest.fail("it began")
    assert (plan.output / "deep" / "left").exists()
    assert (plan.scratch / "deep" / "left").exists()


@pytest.mark.parametrize("which", ["output", "scratch"])
def test_what_cannot_be_removed_lets_nothing_begin(
    plan: LaunchPlan, which: str, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    place: Path = getattr(plan, which)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(elsewhere)
    with (
        pytest.raises(FileExistsError, match="cannot be removed"),
        beginning(plan, directories(plan), OWNER),
    ):
        pytest.fail("it began")
    assert (elsewhere / "kept").exists()
    assert not plan.state.exists()
