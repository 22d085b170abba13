"""How an attempt ended, from the evidence."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.state import FailureReason, JobState
from worker.outcome import Ended, Evidence, decide
from worker.plan import ExitStatus, StopCause

pytestmark = pytest.mark.unit

ENGINE = {"cause": StopCause.ENGINE}


@pytest.mark.parametrize(
    ("end", "said", "reason"),
    [
        ({"code": 0}, {}, None),
        ({"code": 0}, {"completed": True, "success": True, "must_complete": True}, None),
        ({"code": 0}, {"must_complete": True}, FailureReason.INVALID_OUTPUT),
        ({"code": 0}, {"completed": True, "error": "no"}, FailureReason.USER_ERROR),
        ({"code": 0, "oom": True}, {}, None),
        ({"code": 0, "cause": StopCause.REQUESTED}, {}, FailureReason.NODE_LOST),
        ({"code": None, "signal": 15, "cause": StopCause.REQUESTED}, {}, FailureReason.NODE_LOST),
        ({"code": 1, "oom": True}, {}, FailureReason.OUT_OF_MEMORY),
        ({"code": 1}, {"completed": True, "success": True}, FailureReason.USER_ERROR),
        ({"code": None, "cause": StopCause.OUTPUT}, {}, FailureReason.OUTPUT_TOO_LARGE),
        ({"code": None, **ENGINE}, {}, FailureReason.ENGINE_ERROR),
        # what it said last may have been lost with the engine
        ({"code": 0, **ENGINE}, {}, None),
        ({"code": 0, **ENGINE}, {"must_complete": True}, FailureReason.ENGINE_ERROR),
        ({"code": 0, **ENGINE}, {"must_complete": True, "completed": True, "success": True}, None),
    ],
)
def test_its_end_and_its_words(
    end: dict[str, Any], said: dict[str, Any], reason: FailureReason | None
) -> None:
    found = decide(Evidence(exit=ExitStatus(**end), **said))
    assert found.reason is reason
    assert found.state is (JobState.FAILED if reason else JobState.SUCCEEDED)
    assert found.retry is (reason in (FailureReason.ENGINE_ERROR, FailureReason.NODE_LOST))


@pytest.mark.parametrize(
    ("end", "said", "is_kept"),
    [
        ({"code": 0}, {}, True),
        ({"code": 0}, {"completed": True, "success": True, "must_complete": True}, True),
        ({"code": 0}, {"must_complete": True}, False),
        ({"code": 0, "cause": StopCause.REQUESTED}, {}, False),
        ({"code": 1}, {}, False),
        ({"code": None, "signal": 15}, {}, False),
        ({"code": None}, {}, False),
    ],
)
def test_what_had_ended_well_before_its_node_stopped_is_not_run_again(
    end: dict[str, Any], said: dict[str, Any], is_kept: bool
) -> None:
    found = decide(Evidence(exit=ExitStatus(**end), ended=Ended.SHUTDOWN, why="", **said))
    if is_kept:
        assert found.state is JobState.SUCCEEDED
    else:
        assert (found.reason, found.retry, found.counts) == (FailureReason.NODE_LOST, True, False)
