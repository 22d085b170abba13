"""The record of a job that has succeeded on node-a, for what is proven of it."""

from __future__ import annotations

from tasks.recorded import JobRecord
from tasks.state import JobState

RECORD = JobRecord(
    job_id="job-1",
    state=JobState.SUCCEEDED,
    queue="",
    user_id="",
    attempt=1,
    max_attempts=3,
    fence=1,
    node="node-a",
    slot="cpu0",
    submitted=1.0,
    started=1.0,
    finished=1.0,
    reason="",
    message="",
    cancel="",
    spec={},
    result={"n": 1},
    progress={},
    seq=3,
)
