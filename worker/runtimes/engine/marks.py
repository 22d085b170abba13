"""Which images a node has pulled itself, and when a job used each last: a file for each image.

Only what a node pulled is its to remove: an image may be there for another node of the same engine,
or because the operator built it.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

_PULLED: Final = "pulled\n"


class ImageMarks:
    """``place``: a directory that the node's processes share. Safe to use from all of them."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def pulled(self, image_id: str) -> None:
        """This node has fetched it, just now."""
        self._place.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file(image_id).write_text(_PULLED)

    def used(self, image_id: str) -> None:
        """A job of this node is to run in it."""
        with contextlib.suppress(FileNotFoundError):  # not this node's: it is never removed
            os.utime(self._file(image_id))

    def last_used(self, image_id: str) -> float | None:
        """Seconds since the epoch; None: it is not this node's to remove."""
        try:
            return self._file(image_id).stat().st_mtime
        except FileNotFoundError:
            return None

    def all(self) -> list[str]:
        """The ids of the images that this node has pulled."""
        if not self._place.is_dir():
            return []
        return [f"sha256:{path.name}" for path in self._place.iterdir()]

    def forget(self, image_id: str) -> None:
        """It is gone."""
        self._file(image_id).unlink(missing_ok=True)

    def _file(self, image_id: str) -> Path:
        return self._place / image_id.removeprefix("sha256:")
