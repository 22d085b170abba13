"""A wall clock that a test can set: Python imports this at its start, where PYTHONPATH says so.

libfaketime will not do: it makes Python's `time.sleep` fail, which sleeps until a time of the
monotonic clock.
"""

import os
import time

_REAL = time.time
_LOOK_EVERY = 0.2
_offset = 0.0
_look_at = 0.0


def _time() -> float:
    global _offset, _look_at
    now = time.monotonic()
    if now >= _look_at:
        _look_at = now + _LOOK_EVERY
        try:
            with open(os.environ["CYXWIZ_TEST_CLOCK"]) as file:  # noqa: PTH123 - at every start
                _offset = float(file.read() or 0)
        except (OSError, ValueError, KeyError):
            _offset = 0.0
    return _REAL() + _offset


if "CYXWIZ_TEST_CLOCK" in os.environ:
    time.time = _time
