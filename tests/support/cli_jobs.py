"""Jobs for tests of the command line."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

from tests.support.cli import Cli
from tests.support.waiting import wait_until

STEPS = """
import json, sys
for epoch in range(1, 4):
    print(json.dumps({"type": "progress", "epoch": epoch, "total_epochs": 3, "loss": 1 / epoch}))
print("to out", flush=True)
print("to err", file=sys.stderr, flush=True)
print(json.dumps({"type": "complete", "success": True}))
"""
UNTIL_TOLD = """
import pathlib, signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: print("saved", flush=True))
print("at work", flush=True)
while not pathlib.Path(sys.argv[1]).exists():
    time.sleep(0.02)
"""


def python(code: str, *args: str, **fields: Any) -> str:
    """A command job, as JSON."""
    return json.dumps({"command": ["python3", "-S", "-c", code, *args], **fields})


def submitted(cli: Cli, job: str, *args: str) -> str:
    """Submit ``job`` (JSON); its id."""
    done = cli("submit", "-", *args, stdin=job)
    assert done.code == 0, done
    return done.out.strip()


class Busy:
    """A job that runs until it is told to end."""

    def __init__(self, cli: Cli, tmp_path: Path, **fields: Any) -> None:
        self.until = tmp_path / f"enough-{uuid.uuid4()}"
        self.cli = cli
        self.job_id = submitted(cli, python(UNTIL_TOLD, str(self.until), **fields))

    def wait(self, text: str = "at work", times: int = 1) -> None:
        """Until it has printed ``text``."""

        def printed() -> bool:
            return self.cli("logs", self.job_id).out.count(text) >= times

        wait_until(printed, timeout=30, what=text)

    def end(self) -> None:
        self.until.touch()
