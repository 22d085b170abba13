"""How much room a disk has, and how much a tree takes of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from worker.store.refusals import NoRoom
from worker.store.trees import Tree

_BLOCK: Final = 4096
_MB: Final = 1 << 20


def free_bytes(directory: Path) -> int:
    """Bytes that this user may still write to the disk of ``directory``."""
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


def require_free(directory: Path, need: int, keep_free: int) -> None:
    """Raises NoRoom: less than ``keep_free`` bytes would be left after ``need`` are written."""
    free = free_bytes(directory)
    if free - need < keep_free:
        raise NoRoom(
            f"the disk of {directory} has {free / _MB:,.0f} MiB free: too little for "
            f"{need / _MB:,.0f} MiB and the {keep_free / _MB:,.0f} MiB that stay free "
            "(storage.keep_free_mb)"
        )


def taken(tree: Tree) -> int:
    """Bytes that the tree's files take on disk."""
    return sum(-(-one.size // _BLOCK) * _BLOCK for one in tree.files)
