"""Which failures are tried again, and after how long."""

from __future__ import annotations

import pytest

from tasks.state import FailureReason
from worker.retry import backoff_ms

pytestmark = pytest.mark.unit

NOT_THE_JOBS_FAULT = {
    "stalled",
    "dataset_unavailable",
    "image_unavailable",
    "no_device",
    "device_lost",
    "engine_error",
    "node_lost",
    "internal",
}
WHAT_THE_JOB_DID = {
    "user_error",
    "invalid_output",
    "out_of_memory",
    "gpu_out_of_memory",
    "timeout",
    "sandbox_unavailable",
    "untrusted",
    "output_too_large",
}


def test_every_reason_is_decided_on() -> None:
    assert {one.value for one in FailureReason if one.retryable} == NOT_THE_JOBS_FAULT
    assert {one.value for one in FailureReason if not one.retryable} == WHAT_THE_JOB_DID


def test_it_waits_twice_as_long_each_time_and_at_most_a_minute() -> None:
    waits = [backoff_ms(attempt) for attempt in range(1, 9)]
    assert waits == [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]
    assert backoff_ms(0) == 1_000
    assert backoff_ms(10_000) == 60_000
