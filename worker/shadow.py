"""Is `tasks` this project's package, or a user's own ``tasks.py`` that stands before it?

Celery puts the current directory first on the module search path, and ``tasks.py`` is the name
that its tutorial uses. This module imports nothing of `tasks`, so that it can say so.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).resolve().parents[1]
"""Where `worker` is; `tasks` is part of the same distribution, so it is there too."""


class TasksShadowed(RuntimeError):
    """Another `tasks` is found before this project's. The message names its file.

    No ImportError: those Celery swallows as it looks for its app, and then says something else.
    """


def ensure_tasks_is_ours() -> None:
    """Raise TasksShadowed if ``import tasks`` gives something else than this project's package.

    To be called before the first ``import tasks``; imports nothing itself.
    """
    found = _where()
    if found is None:
        raise TasksShadowed(
            f"there is no package `tasks` beside {_ROOT / 'worker'}: "
            "the installation is incomplete; install cyxwiz-worker again"
        )
    if found.parent == _ROOT / "tasks":
        return
    raise TasksShadowed(
        f"{found} stands before this project's package `tasks`. Run from another directory, "
        "rename the file, or take its directory off PYTHONPATH. A program that must keep a "
        "tasks.py of its own submits jobs by name, without importing ours: "
        'app.send_task("tasks.train", [config]) with a Celery app on the same Redis'
    )


def _where() -> Path | None:
    """The file of the module `tasks` that is imported, or would be."""
    module = sys.modules.get("tasks")
    if module is not None:
        origin = getattr(module, "__file__", None)
        places = list(getattr(module, "__path__", ()))
    else:
        spec = importlib.util.find_spec("tasks")
        if spec is None:
            return None
        origin = spec.origin if spec.has_location else None
        places = list(spec.submodule_search_locations or ())
    if origin is not None:
        return Path(origin).resolve()
    # a directory `tasks` without an __init__.py
    return Path(places[0]).resolve() / "__init__.py" if places else None
