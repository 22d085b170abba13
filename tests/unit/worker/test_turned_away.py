"""What becomes of a job that a runtime could not start."""

from __future__ import annotations

import pytest

from tasks.errors import RuntimeUnavailable
from tasks.state import FailureReason, JobState
from worker.runtimes.engine.errors import (
    EngineError,
    EngineMissing,
    ImageForbidden,
    ImageUnavailable,
    SandboxUnavailable,
)
from worker.turned_away import TurnedAway

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    "error",
    [
        RuntimeUnavailable("held"),
        EngineMissing("away"),
        ImageForbidden("no"),
        ImageUnavailable("none"),
        SandboxUnavailable("seccomp"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_the_first_time_another_node_may_try(error: RuntimeUnavailable) -> None:
    outcome = TurnedAway.by_runtime(error, "").outcome
    assert (outcome.state, outcome.retry, outcome.counts) == (JobState.QUEUED, True, False)
    assert outcome.message == str(error)


@pytest.mark.parametrize("error", [ImageForbidden("no"), SandboxUnavailable("seccomp")])
def test_what_no_node_gives_is_refused_when_it_comes_again(error: ImageForbidden) -> None:
    outcome = TurnedAway.by_runtime(error, error.reason).outcome
    assert (outcome.state, outcome.reason) == (JobState.REJECTED, error.reason)


def test_an_image_that_cannot_be_had_costs_attempts_from_the_second_time_on() -> None:
    outcome = TurnedAway.by_runtime(
        ImageUnavailable("none"), FailureReason.IMAGE_UNAVAILABLE
    ).outcome
    assert (outcome.state, outcome.retry, outcome.counts) == (JobState.FAILED, True, True)


def test_an_engine_that_answers_and_does_not_start_it_costs_an_attempt() -> None:
    outcome = TurnedAway.by_runtime(EngineError("400: no"), "").outcome
    assert (outcome.state, outcome.retry, outcome.counts) == (JobState.FAILED, True, True)


def test_an_engine_that_is_away_is_waited_for() -> None:
    outcome = TurnedAway.by_runtime(EngineMissing("away"), FailureReason.ENGINE_ERROR).outcome
    assert (outcome.state, outcome.counts) == (JobState.QUEUED, False)
