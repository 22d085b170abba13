"""What producers import: `train`, `JobConfig`, `follow`, `cancel`, `artifacts`, the Celery `app`.

Nothing is imported before it is asked for, and nothing of the node ever is.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks.celery import app
    from tasks.control import cancel
    from tasks.following import follow, follow_async
    from tasks.job import JobConfig
    from tasks.outputs import artifacts
    from tasks.training import train

__all__ = ["JobConfig", "app", "artifacts", "cancel", "follow", "follow_async", "train"]

_WHERE = {
    "JobConfig": "tasks.job",
    "app": "tasks.celery",
    "artifacts": "tasks.outputs",
    "cancel": "tasks.control",
    "follow": "tasks.following",
    "follow_async": "tasks.following",
    "train": "tasks.training",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'tasks' has no attribute {name!r}")
    value = getattr(import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
