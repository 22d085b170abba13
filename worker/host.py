"""What the host itself decides about a node: whether it can be one, its name, its directory."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from tasks.errors import PlatformError


def ensure_supported_platform(platform: str = sys.platform) -> None:
    """Raise PlatformError where a node cannot run. Producers run anywhere."""
    if platform == "win32":
        raise PlatformError(
            "a node cannot run on Windows itself: install WSL2 (`wsl --install`) and run "
            "`cyxwiz node` inside it. Submitting and following jobs works on Windows as it is."
        )


def default_node_name(hostname: str | None = None) -> str:
    """The host's name as a node's name: a-z, 0-9 and -, at most 63; ``node`` if nothing is left."""
    name = socket.gethostname() if hostname is None else hostname
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:63].rstrip("-") or "node"


def default_state_dir(env: Mapping[str, str], *, root: bool | None = None) -> Path:
    """Where a node keeps its state: a system directory for root, else one of the user's own."""
    if root is None:
        root = hasattr(os, "geteuid") and os.geteuid() == 0
    if root:
        return Path("/var/lib/cyxwiz")
    state = env.get("XDG_STATE_HOME", "")
    if state.startswith("/"):  # the specification says that a relative one is to be ignored
        return Path(state) / "cyxwiz"
    home = env.get("HOME", "")
    return (Path(home) if home.startswith("/") else Path.home()) / ".local/state/cyxwiz"
