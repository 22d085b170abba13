"""Programs that every runtime is tried with, and what the fake one does instead."""

from __future__ import annotations

import signal

from tests.support.runtimes import Heard, Program
from worker.runtimes.fake_script import Await, Script, Write

IGNORES_TERM = Program(
    source="import signal; signal.signal(15, signal.SIG_IGN); print('up', flush=True)\n"
    "while True: signal.pause()",
    script=Script(steps=(Write(data=b"up\n"), Await()), on_signal={signal.SIGTERM: b""}),
)
WAITS = Program(
    source="import signal; print('up', flush=True); signal.pause()",
    script=Script(steps=(Write(data=b"up\n"), Await())),
)
TICKS = Program(
    source="import time\nwhile True: print('tick', flush=True); time.sleep(0.01)",
    script=Script(steps=(Write(data=b"tick\n", times=10**9),)),
)
MEBIBYTE = 1 << 20


def up(heard: Heard) -> bool:
    return b"up\n" in heard.out
