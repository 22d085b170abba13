"""What a store's refusal means for an attempt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.events import Event
from tasks.job import JobConfig
from tasks.state import FailureReason, JobState
from worker.config import NodeConfig
from worker.plan import AttemptId
from worker.supplies import Supplies
from worker.turned_away import TurnedAway

pytestmark = pytest.mark.integration

NO_DISK_HAS = 1 << 40
"""MiB."""


class Heard:
    """Takes what would be published."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def offer(self, event: Event) -> None:
        self.events.append(event)


def supplies(tmp_path: Path, **storage: Any) -> Supplies:
    config = NodeConfig.model_validate(
        {"node": {"state_dir": str(tmp_path)}, "storage": {"keep_free_mb": 0, **storage}}
    )
    attempt = AttemptId(job_id="job-1", fence=1)
    return Supplies(config, attempt, Heard(), lambda: None)  # type: ignore[arg-type]  # it offers


def job(**more: Any) -> JobConfig:
    return JobConfig.parse({"command": ["true"], **more})


def test_a_full_disk_hands_any_job_back(tmp_path: Path) -> None:
    with pytest.raises(TurnedAway) as caught:
        supplies(tmp_path, keep_free_mb=NO_DISK_HAS).get(job())
    outcome = caught.value.outcome
    assert (outcome.state, outcome.counts, outcome.retry) == (JobState.QUEUED, False, True)
    assert "storage.keep_free_mb" in outcome.message


def test_output_that_cannot_be_kept_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "model").write_text("x")
    with pytest.raises(TurnedAway) as caught:
        supplies(tmp_path, keep_free_mb=NO_DISK_HAS).keep(tmp_path / "output")
    outcome = caught.value.outcome
    assert (outcome.state, outcome.retry) == (JobState.FAILED, True)
    assert outcome.reason is FailureReason.ENGINE_ERROR
    assert outcome.reason.retryable


def test_a_job_without_data_touches_nothing(tmp_path: Path) -> None:
    own = supplies(tmp_path)
    provided = own.get(job(dataset_uri="builtin:digits"))
    assert provided.data_path is None
    assert provided.fds == ()
    own.close()
    own.close()
    assert not list(tmp_path.iterdir())


def test_sent_files_leave_nothing_on_the_node(tmp_path: Path) -> None:
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "model").write_text("x")
    kept = supplies(tmp_path, artifacts=f"local://{tmp_path}/store").keep(tmp_path / "output")
    assert [one.name for one in kept.artifacts] == ["model"]
    assert (tmp_path / "store" / "job-1" / "1" / "model").read_text() == "x"
    assert not list((tmp_path / "jobs" / "job-1").iterdir())
