"""Stands in for a Celery worker where a test is about the agent alone: same signals, same files.

Usage: stand_in_worker.py [crash | deaf | silent | child]...

While the file ``SLOT.job`` is beside the ready file, a job is in progress: SIGTERM waits for it.
"""

import contextlib
import fcntl
import os
import signal
import sys
import time
from pathlib import Path

modes = sys.argv[1:]
slots = Path(os.environ["CYXWIZ_STATE_DIR"]) / "slots"
slot = os.environ["CYXWIZ_SLOT"]
if "crash" in modes:
    print("cannot go on: the disk is made of cheese", flush=True)
    sys.exit(3)

asked = []
for name in (signal.SIGTERM, signal.SIGQUIT):
    signal.signal(name, lambda number, _: asked.append(number))
if "child" in modes and os.fork() == 0:
    (slots / f"{slot}.child").write_text(str(os.getpid()))
    signal.pause()
    os._exit(0)
# as a worker does, and no child of it: by this an agent that has lost its record knows it
lock = os.open(slots / f"{slot}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
with contextlib.suppress(BlockingIOError):
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
if "silent" not in modes:
    (slots / f"{slot}.ready").write_text(str(os.getpid()))
while "deaf" in modes or not asked:
    time.sleep(0.01)
while signal.SIGQUIT not in asked and (slots / f"{slot}.job").exists():
    time.sleep(0.01)
# of two that came at once the lesser number is told first: the stronger one counts
strongest = signal.SIGQUIT if signal.SIGQUIT in asked else asked[-1]
(slots / f"{slot}.last").write_text(signal.Signals(strongest).name)
