"""How far a node confines jobs."""

from __future__ import annotations

from enum import IntEnum


class SandboxLevel(IntEnum):
    """A level is a node's only after a probe has shown that each of its promises holds."""

    NONE = 0
    """Natively, or in a container whose sandbox is not whole."""
    BASIC = 1
    """Rootless Podman."""
    FULL = 2
    """Docker."""
