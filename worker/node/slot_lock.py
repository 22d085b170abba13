"""One worker for each slot: a second one would take the first one's attempts for leftovers."""

from __future__ import annotations

import fcntl
import os
import time
from typing import Final

from tasks.errors import NodeConflict
from worker.node.paths import NodePaths

_PATIENCE_S: Final = 5.0
"""What a killed predecessor may take to be gone."""
_AGAIN_S: Final = 0.05


def take_slot(paths: NodePaths, slot: str) -> int:
    """The open lock of ``slot``, held until every copy of it is closed.

    Raises NodeConflict naming who has it.
    """
    fd = os.open(paths.slot_lock(slot), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < until:
                time.sleep(_AGAIN_S)
                continue
            holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(fd)
            raise NodeConflict(
                f"slot {slot} of the node in {paths.state_dir} is served by another worker "
                f"(pid {holder}); stop it, or give this one a node.state_dir of its own "
                "(CYXWIZ_NODE__STATE_DIR)"
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, str(os.getpid()).encode(), 0)
        return fd
