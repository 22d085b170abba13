"""A node's configuration, read again while it runs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from tasks.errors import ConfigError
from worker.config import NodeConfig
from worker.node.log import event
from worker.node.stop_bell import StopBell

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


class Reloading:
    """Reads it when that is asked for."""

    def __init__(
        self, bell: StopBell, read: Callable[[], NodeConfig] | None, say: Callable[[str], None]
    ) -> None:
        """``read``: None: what is asked for changes nothing. ``say``: tells people."""
        self._bell = bell
        self._read = read
        self._say = say
        self._heard = 0

    def step(self, now: NodeConfig) -> NodeConfig | None:
        """The configuration to be taken up in the place of ``now``, if there is one."""
        asked, self._heard = self._bell.reloads - self._heard, self._bell.reloads
        if not asked or self._read is None:
            return None
        try:
            return reloaded(now, self._read)
        except ConfigError as error:
            event("node.reload_refused", level=logging.ERROR, error=str(error))
            self._say(f"the configuration was not taken up, and the old one holds: {error}")
            return None
