"""A node's configuration, read again while it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tasks.errors import ConfigError
from worker.config import NodeConfig

_AT_A_START_ONLY: Final = ("node", "redis", "slots", "gpu")
"""Sections that say who the node is, where, and which slots it has."""


def reloaded(now: NodeConfig, read: Callable[[], NodeConfig]) -> NodeConfig:
    """What ``read`` reads, if a running node can take it up.

    Raises ConfigError: it is wrong, or changes what only a start can change; nothing is taken up.
    """
    new = read()
    fixed = [name for name in _AT_A_START_ONLY if getattr(new, name) != getattr(now, name)]
    if fixed:
        raise ConfigError(
            f"{', '.join(fixed)}: a running node does not change this; stop the node and start it"
        )
    return new
