"""The baseline: a bare Celery app whose task runs a subprocess."""

from __future__ import annotations

import os
import subprocess

from celery import Celery

app = Celery(
    "bare",
    broker=os.environ.get("BARE_REDIS", "redis://"),
    backend=os.environ.get("BARE_REDIS", "redis://"),
)
app.conf.update(
    broker_transport_options={"global_keyprefix": "bare:"},
    result_backend_transport_options={"global_keyprefix": "bare:"},
    worker_prefetch_multiplier=1,
    task_acks_late=True,
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
)


@app.task(name="run")  # type: ignore[untyped-decorator]  # Celery has no type hints
def run(command: list[str]) -> int:
    """Run ``command``; its exit code."""
    return subprocess.run(command, check=True, capture_output=True).returncode
