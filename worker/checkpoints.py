"""Where the checkpoints of jobs lie: on the node, or on storage that the nodes of a cluster share.

On shared storage an attempt on another node finds what the one before left. Whoever ends a job
removes them; of jobs that end while no node looks, the sweep does. Copies in a store are
`worker.keeping`'s; what it must know of the node's own directory is beside that.

Each binding of a job (`worker.binding`) has a directory of its own, in one that no job sees::

    jobs/ID/checkpoints-BINDING, jobs/ID/sent-BINDING.json        on the node
    ID~/BINDING                                                   in what nodes share

Versions before bindings had ``jobs/ID/checkpoints``, ``jobs/ID/sent.json`` and ``ID``.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from worker.binding import UNBOUND, Binding
from worker.node.paths import NodePaths
from worker.store.trees import is_sha256

log = logging.getLogger(__name__)

_FORGOTTEN_S: Final = 7 * 24 * 3600.0
"""For so long what is shared stays of a job that no record names: Redis may have lost its data,
and the job may run on another node."""


_HERE: Final = "checkpoints"
_MARK: Final = "sent"
_PASSABLE: Final = 0o711
_BOUND: Final = "~"
"""After the id of a job, in what is shared: its bindings are in there. No id of a job has it."""


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

    def of(self, job_id: str, bound: str) -> Path:
        """What ``CYXWIZ_CHECKPOINTS`` is outside a container. ``bound``: the name of a binding."""
        if self.shared is not None:
            return self.shared / f"{job_id}{_BOUND}" / bound if bound else self.shared / job_id
        return self.paths.job(job_id) / _named(_HERE, bound)

    def begin(self, job_id: str, binding: Binding) -> bool:
        """Before an attempt. Whether anything is here that is another's, and is left alone.

        What an earlier version left, which is bound to nothing, becomes an unsigned job's own.
        """
        if self.shared is None and not os.path.lexists(self.paths.job(job_id)):
            return False  # it is the first attempt, most often
        here, unbound = self.of(job_id, binding.name), self.of(job_id, UNBOUND)
        if self.shared is not None:
            with suppress(OSError):  # then there is no attempt either
                # an engine gets through, whose root may be nobody there; what is in it is closed
                here.parent.mkdir(parents=True, exist_ok=True)
                if stat.S_IMODE(here.parent.stat().st_mode) != _PASSABLE:  # by the node's umask
                    here.parent.chmod(_PASSABLE)
        try:
            if binding.takes(UNBOUND) and unbound.is_dir() and not here.exists():
                unbound.rename(here)
                # what it sent is elsewhere in the store, and goes with the job
                fence = self.mark(job_id, UNBOUND).fence
                self.write_mark(job_id, binding.name, Mark(fence=fence))
        except OSError as error:
            log.warning("checkpoint.not_taken_over job=%s error=%s", job_id, error)
        return any(_has_any(one) for one in (*self._bound(here.parent), unbound) if one != here)

    def mark(self, job_id: str, bound: str) -> Mark:
        """As it was last written; fence 0: never.

        A native job can write it too, and what it names is removed from the store: a name is what
        a file there is called, or none.
        """
        try:
            said = json.loads(self._mark(job_id, bound).read_text())
            names = frozenset(name for name in map(str, said["names"]) if is_sha256(name))
            return Mark(fence=int(said["fence"]), names=names)
        except (OSError, ValueError, KeyError, TypeError):
            return Mark()

    def write_mark(self, job_id: str, bound: str, mark: Mark) -> None:
        """Whole or not at all. Raises OSError."""
        place = self._mark(job_id, bound)
        place.parent.mkdir(parents=True, exist_ok=True)
        fresh = place.with_name(f"{place.name}.new")
        fresh.write_text(json.dumps({"fence": mark.fence, "names": sorted(mark.names)}))
        fresh.replace(place)

    def has_any(self, job_id: str, bound: str) -> bool:
        """Whether anything lies here."""
        return _has_any(self.of(job_id, bound))

    def drop(self, job_id: str) -> None:
        """The job is over: remove them, and whatever else it has on this node."""
        if self.shared is not None:
            _remove(self.shared / job_id)
            _remove(self.shared / f"{job_id}{_BOUND}")
        place = self.paths.job(job_id)
        with suppress(OSError):
            for directory in os.listdir(place):  # noqa: PTH208 - for each job
                _remove(place / directory)
        _remove(place)

    def drop_empty(self, job_id: str) -> None:
        """An attempt is over: what is empty here is of no use to the next one. What is shared
        stays: that one may have begun elsewhere."""
        place = self.paths.job(job_id)
        try:
            names = set(os.listdir(place))  # noqa: PTH208 - for each job
        except OSError:
            return
        for name in [one for one in names if one.startswith(_HERE)]:
            with suppress(OSError):
                (place / name).rmdir()
                names.remove(name)
        for name in [one for one in names if one.startswith(_MARK)]:
            if name.removesuffix(".json").replace(_MARK, _HERE, 1) not in names:
                with suppress(OSError):
                    (place / name).unlink()
        with suppress(OSError):
            place.rmdir()

    def forgotten(self, is_over: Callable[[str], bool | None]) -> Iterator[str]:
        """Jobs that are over, and have something on the shared storage. ``is_over``: None for a
        job that is unknown."""
        if self.shared is None or not self.shared.is_dir():
            return
        for directory in list(self.shared.iterdir()):
            job_id = directory.name.removesuffix(_BOUND)
            over = is_over(job_id)
            if over is None:
                over = time.time() - _newest(directory) > _FORGOTTEN_S
            if over:
                yield job_id

    def _bound(self, place: Path) -> list[Path]:
        """The directories of a job's bindings."""
        try:
            names = os.listdir(place)  # noqa: PTH208 - for each job
        except OSError:
            return []
        return [place / one for one in names if self.shared is not None or one.startswith(_HERE)]

    def _mark(self, job_id: str, bound: str) -> Path:
        return self.paths.job(job_id) / f"{_named(_MARK, bound)}.json"


def _named(what: str, bound: str) -> str:
    return f"{what}-{bound}" if bound else what


def _newest(directory: Path) -> float:
    """When something in it was last written, seconds since the epoch; now, if it is gone."""
    newest = time.time()
    with suppress(OSError):  # another node has just removed it, or it is no directory
        entries = list(directory.iterdir())
        newest = directory.lstat().st_mtime
        for one in entries:
            newest = max(newest, one.lstat().st_mtime)
    return newest


def _has_any(directory: Path) -> bool:
    try:
        return bool(os.listdir(directory))  # noqa: PTH208 - for each job
    except OSError:
        return False


def _remove(directory: Path) -> None:
    """Most often it is empty: a walk would cost more than all else that a short job leaves."""
    try:
        os.rmdir(directory)  # noqa: PTH106 - for each job
    except OSError:
        shutil.rmtree(directory, ignore_errors=True)
