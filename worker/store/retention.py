"""Removes the artefacts that a node has kept for as long as its operator wants them kept."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_DAY_S: Final = 24 * 3600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Retention:
    """Of the folder beneath the node's own state directory, in which nobody else has anything. A
    folder that the operator named, or a store, may hold other things, and has its own rules."""

    place: Path
    days: int
    """0: for ever."""

    def once(self) -> list[str]:
        """Remove what is older; whose it was. Raises OSError: the folder cannot be read.

        What a job leaves is put there in one step, whole, and not touched again: the time of its
        directory is when that was.
        """
        if not self.days:
            return []
        removed = []
        until = time.time() - self.days * _DAY_S
        for directory in list(self.place.iterdir()):
            if directory.lstat().st_mtime < until and not directory.is_symlink():
                shutil.rmtree(directory, ignore_errors=True)
                removed.append(directory.name)
        return removed
