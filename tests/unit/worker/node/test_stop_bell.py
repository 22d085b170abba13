"""A request to stop is heard, whenever it comes."""

from __future__ import annotations

import os
import select
import signal
import threading

import pytest

from worker.node.stop_bell import StopBell

pytestmark = pytest.mark.unit


def heard(bell: StopBell) -> bool:
    return bool(select.select([bell], [], [], 0)[0])


def test_a_ring_from_a_thread_is_heard_once() -> None:
    with StopBell() as bell:
        thread = threading.Thread(target=bell.ring)
        thread.start()
        thread.join()
        assert heard(bell)
        bell.clear()
        assert not heard(bell)
        assert bell.rings == 1


def test_a_signal_whose_handler_has_not_run_yet_is_heard_all_the_same() -> None:
    """It may come after the interpreter last looked for signals, and before the loop blocks."""
    before = signal.getsignal(signal.SIGTERM)
    with StopBell() as bell:
        # a handler that does nothing stands for one whose turn has not come
        signal.signal(signal.SIGTERM, lambda *_: None)
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard(bell)
        assert bell.rings == 0
    assert signal.getsignal(signal.SIGTERM) is before


def test_signals_are_counted_and_the_handlers_restored() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopBell() as bell:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert bell.rings == 2
    assert signal.getsignal(signal.SIGTERM) is before
    bell.ring()  # no one listens any more: no error
