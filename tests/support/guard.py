"""Ties an engine of the tests to the process that it was started for: it ends when that one does,
whatever happens to it. Between them stands a guard, a process that does nothing else.

A module whose engine is to be guarded calls `serve` when it is run as a program:

    python -m tests.support.dockerd DIRECTORY PID
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from tests.support.waiting import wait_until

REPO = Path(__file__).resolve().parents[2]


class Guarded(Protocol):
    """What is tied."""

    def start(self) -> object: ...

    def close(self) -> None: ...


def tied(module: str, directory: Path, pid: int) -> subprocess.Popen[bytes]:
    """Start the guard of ``module``, and by it an engine in ``directory`` that ends, with all it
    left, when process ``pid`` does."""
    command = [sys.executable, "-m", module, str(directory), str(pid)]
    guard = subprocess.Popen(command, cwd=REPO, stdin=subprocess.DEVNULL, start_new_session=True)
    ready = directory / "ready"

    def up() -> bool:
        assert guard.poll() is None, f"the guard of {module} ended"
        return ready.exists()

    wait_until(up, timeout=40, what=f"the engine of {module}")
    return guard


def serve(make: Callable[[Path], Guarded]) -> None:
    """Be the guard, as the command line says."""
    directory, pid = Path(sys.argv[1]), int(sys.argv[2])
    watched = os.pidfd_open(pid)
    told, tell = os.pipe()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os.write(tell, b"x"))
    engine = make(directory)
    try:
        engine.start()
        (directory / "ready").touch()
        select.select([watched, told], [], [])
    finally:
        engine.close()
        shutil.rmtree(directory, ignore_errors=True)
        directory.with_suffix(".lock").unlink(missing_ok=True)
