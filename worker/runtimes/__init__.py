"""The runtimes of a node, by name. A new one is a module beside these and a line below.

Each is imported when it is first asked for: none may cost a host that does not use it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tasks.errors import ConfigError
from worker.runtimes.base import Runtime


def _native(state_root: Path, abandon_after: float) -> Runtime:
    from worker.runtimes.native import NativeRuntime

    return NativeRuntime(state_root=state_root, abandon_after=abandon_after)


RUNTIMES: dict[str, Callable[[Path, float], Runtime]] = {"native": _native}
"""Name to factory of (state root, seconds without a supervisor after which attempts end)."""


def runtime(name: str, *, state_root: Path, abandon_after: float) -> Runtime:
    """The runtime ``name`` of the node whose state is in ``state_root``.

    Raises:
        ConfigError: there is no such runtime.
    """
    try:
        factory = RUNTIMES[name]
    except KeyError:
        known = ", ".join(sorted(RUNTIMES))
        raise ConfigError(f"no runtime is called {name!r}; there are: {known}") from None
    return factory(state_root, abandon_after)
