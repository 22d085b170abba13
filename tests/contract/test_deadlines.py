"""Pauses, and deadlines that pass."""

from __future__ import annotations

import signal
import time

import pytest

from tests.support.programs import IGNORES_TERM, TICKS, WAITS, up
from tests.support.runtimes import Harness, hear, soon
from tests.support.waiting import wait_until
from worker.plan import StopCause
from worker.runtimes.base import Status

pytestmark = pytest.mark.contract


def test_pause_and_resume(pausing: Harness) -> None:
    handle = pausing.runtime.start(pausing.plan(TICKS), soon())
    hear(handle, until=lambda heard: b"tick" in heard.out)
    handle.pause()
    wait_until(lambda: handle.status() is Status.PAUSED, timeout=5, what="paused")
    while handle.read(0.1) is not None:  # what was written before it stopped
        pass
    assert handle.read(0.3) is None
    handle.resume()
    wait_until(lambda: handle.status() is Status.RUNNING, timeout=5, what="resumed")
    handle.fence()
    handle.remove()


def test_a_passed_deadline_pauses_until_the_next_beat(pausing: Harness) -> None:
    handle = pausing.runtime.start(pausing.plan(WAITS), soon())
    hear(handle, until=up)
    handle.beat(soon(0.3))
    wait_until(lambda: handle.status() is Status.PAUSED, timeout=5, what="paused by the deadline")
    handle.beat(soon())
    wait_until(lambda: handle.status() is Status.RUNNING, timeout=5, what="resumed by the beat")
    handle.remove()


def test_a_beat_does_not_undo_a_users_pause(pausing: Harness) -> None:
    handle = pausing.runtime.start(pausing.plan(WAITS), soon())
    hear(handle, until=up)
    handle.pause()
    wait_until(lambda: handle.status() is Status.PAUSED, timeout=5, what="paused")
    handle.beat(time.monotonic() - 1)  # both reasons now
    handle.beat(soon())
    assert handle.read(0.2) is None
    assert handle.status() is Status.PAUSED
    handle.resume()
    wait_until(lambda: handle.status() is Status.RUNNING, timeout=5, what="resumed")
    handle.remove()


def test_a_stop_past_the_deadline_gives_no_grace(pausing: Harness) -> None:
    handle = pausing.runtime.start(pausing.plan(IGNORES_TERM), soon())
    hear(handle, until=up)
    handle.beat(time.monotonic() - 1)
    wait_until(lambda: handle.status() is Status.PAUSED, timeout=5, what="paused")
    handle.stop(60)
    end = hear(handle, timeout=10).exit
    assert end is not None
    assert (end.signal, end.cause) == (signal.SIGKILL, StopCause.REQUESTED)
    handle.remove()


def test_what_cannot_be_paused_ends_at_its_deadline(harness: Harness) -> None:
    if harness.runtime.capabilities().pause:
        pytest.skip("it can be paused: see the tests above")
    handle = harness.runtime.start(harness.plan(IGNORES_TERM), soon())
    hear(handle, until=up)
    handle.pause()  # does nothing, and says nothing else
    assert handle.read(0.3) is None
    assert handle.status() is Status.RUNNING
    handle.beat(soon(0.3))
    end = hear(handle, timeout=10).exit
    assert end is not None
    assert (end.signal, end.cause) == (signal.SIGKILL, StopCause.DEADLINE)
    handle.remove()
