"""A Celery app that a slot worker can serve where a test needs no jobs of the project."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from celery.signals import worker_ready

from tasks.celery import make_app
from tasks.fitness import TASKS_OPTION
from tasks.settings import Settings

app = make_app(Settings.from_env(), include=())
app.conf.task_routes = ()
app.conf.broker_transport_options = {**app.conf.broker_transport_options, TASKS_OPTION: ("nap",)}
_SLOTS = Path(os.environ["CYXWIZ_STATE_DIR"]) / "slots"
_SLOT = os.environ.get("CYXWIZ_SLOT", "")


@worker_ready.connect  # type: ignore[untyped-decorator]  # Celery has no type hints
def say_ready(**_: Any) -> None:
    (_SLOTS / f"{_SLOT}.ready").write_text(str(os.getpid()))


@app.task(name="nap")  # type: ignore[untyped-decorator]  # Celery has no type hints
def nap(until: str) -> None:
    """Run until there is a file ``until``, or this process is told to end."""
    (_SLOTS / "napping").write_text(str(os.getpid()))
    try:
        while not Path(until).exists():
            time.sleep(0.01)
        (_SLOTS / "slept").touch()
    except SystemExit:
        (_SLOTS / "woken").touch()
        raise
