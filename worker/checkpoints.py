"""Where the checkpoints of jobs lie: on the node, or on storage that the nodes of a cluster share.

On shared storage an attempt on another node finds what the one before left. Whoever ends a job
removes them; of jobs that end while no node looks, the sweep does. Copies in a store are
`worker.keeping`'s; what it must know of the node's own directory is beside that.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from worker.node.paths import NodePaths
from worker.store.trees import is_sha256

_FORGOTTEN_S: Final = 7 * 24 * 3600.0
"""For so long what is shared stays of a job that no record names: Redis may have lost its data,
and the job may run on another node."""


_MARK: Final = "sent.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """Which attempt used the node's own directory last, and what was put to the store from it."""

    fence: int = 0
    names: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoints:
    """Of all jobs."""

    paths: NodePaths
    shared: Path | None = None
    """storage.checkpoints: a directory for each job in it."""

    def of(self, job_id: str) -> Path:
        """What ``CYXWIZ_CHECKPOINTS`` is outside a container."""
        if self.shared is not None:
            return self.shared / job_id
        return self.paths.job(job_id) / "checkpoints"

    def mark(self, job_id: str) -> Mark:
        """As it was last written; fence 0: never.

        A native job can write it too, and what it names is removed from the store: a name is what
        a file there is called, or none.
        """
        try:
            said = json.loads((self.paths.job(job_id) / _MARK).read_text())
            names = frozenset(name for name in map(str, said["names"]) if is_sha256(name))
            return Mark(fence=int(said["fence"]), names=names)
        except (OSError, ValueError, KeyError, TypeError):
            return Mark()

    def write_mark(self, job_id: str, mark: Mark) -> None:
        """Whole or not at all. Raises OSError."""
        place = self.paths.job(job_id)
        place.mkdir(parents=True, exist_ok=True)
        fresh = place / f"{_MARK}.new"
        fresh.write_text(json.dumps({"fence": mark.fence, "names": sorted(mark.names)}))
        fresh.replace(place / _MARK)

    def has_any(self, job_id: str) -> bool:
        """Whether anything lies here."""
        try:
            return bool(os.listdir(self.of(job_id)))  # noqa: PTH208 - for each job
        except OSError:
            return False

    def drop(self, job_id: str) -> None:
        """The job is over: remove them, and whatever else it has on this node."""
        if self.shared is not None:
            _remove(self.shared / job_id)
        place = self.paths.job(job_id)
        with suppress(OSError):
            for directory in os.listdir(place):  # noqa: PTH208 - for each job
                _remove(place / directory)
        _remove(place)

    def drop_empty(self, job_id: str) -> None:
        """An attempt is over: what is empty here is of no use to the next one. What is shared
        stays: that one may have begun elsewhere."""
        place = self.paths.job(job_id)
        with suppress(OSError):
            (place / "checkpoints").rmdir()
        if not (place / "checkpoints").exists():
            with suppress(OSError):
                (place / _MARK).unlink()
        with suppress(OSError):
            place.rmdir()

    def forgotten(self, is_over: Callable[[str], bool | None]) -> Iterator[str]:
        """Jobs that are over, and have something on the shared storage. ``is_over``: None for a
        job that is unknown."""
        if self.shared is None or not self.shared.is_dir():
            return
        for directory in list(self.shared.iterdir()):
            over = is_over(directory.name)
            if over is None:
                try:
                    age = time.time() - directory.stat().st_mtime
                except OSError:  # another node has just removed it
                    continue
                over = age > _FORGOTTEN_S
            if over:
                yield directory.name


def _remove(directory: Path) -> None:
    """Most often it is empty: a walk would cost more than all else that a short job leaves."""
    try:
        os.rmdir(directory)  # noqa: PTH106 - for each job
    except OSError:
        shutil.rmtree(directory, ignore_errors=True)
