"""Sees that what was written outlives a power failure before anything says that it is there."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_ONE_BY_ONE: Final = 256
"""Up to so many files are synced each by itself; above, the file system is, as a whole."""


def settle_on_disk(directory: Path, names: Sequence[str]) -> None:
    """Sync the files ``names`` beneath ``directory``, and every directory above them in it."""
    if len(names) > _ONE_BY_ONE and _sync_file_system(directory):
        return
    directories = {directory}
    for name in names:
        path = directory / name
        _sync(path)
        while (path := path.parent) not in directories:
            directories.add(path)
    for path in directories:
        sync_directory(path)


def sync_directory(directory: Path) -> None:
    """Sync the names in ``directory``."""
    _sync(directory)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _sync_file_system(directory: Path) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return bool(ctypes.CDLL(None).syncfs(ctypes.c_int(fd)) == 0)
    finally:
        os.close(fd)
