"""What earlier processes of this node left: attempts of dead keepers, directories of no attempt.

Attempts whose keeper lives are left alone: the keeper ends them by itself when nobody comes, and
until then a supervisor may take them over.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Collection
from pathlib import Path

from tasks.errors import KeeperError
from worker.devices import leases
from worker.keeper import lock
from worker.keeper.settle import Settlement, end_keeper, remove_tree, settle
from worker.node.log import event
from worker.node.paths import NodePaths
from worker.note import Note, recall
from worker.plan import ExitStatus
from worker.runtimes import native_runtime
from worker.runtimes.base import Chunk, Handle, Runtime

_SETTLE_WITHIN = 2.0
"""Seconds for one attempt: the agent has other things to look after."""
_MARGIN = 2.0
_READ_FOR = 0.1


class Leftovers:
    """Clears up in one state directory. Everything here may be called again.

    A slot with a living worker is that worker's to settle: clearing up under it could end what it
    has just started.
    """

    def __init__(
        self,
        paths: NodePaths,
        recovering: Callable[[], list[Runtime]] = list,
        gone: Callable[[Note], None] = lambda note: None,
    ) -> None:
        """``recovering``: what finds attempts beside native ones again. ``gone``: told of each
        attempt that was settled here: its job can be given back."""
        self._paths = paths
        self._recovering = recovering
        self._gone = gone

    def settle(self, busy: Collection[str]) -> None:
        """Settle the attempts of dead keepers in slots other than ``busy``."""
        for directory in self._attempts():
            record = lock.read(directory)
            if record is None and busy and not lock.abandoned(directory):
                continue  # perhaps one that a worker begins at this moment
            if record is None or record.slot not in busy:
                self._settle(directory, record.slot if record else None)

    def settle_slot(self, slot: str) -> None:
        """Settle the attempts of dead keepers in ``slot``, which has no living worker."""
        for directory in self._attempts():
            record = lock.read(directory)
            if record is not None and record.slot == slot:
                self._settle(directory, slot)

    def end_all(self, grace: float) -> tuple[list[Note], list[Path]]:
        """End every attempt: SIGTERM, then SIGKILL after ``grace`` seconds. For a node that stops.

        Returns the notes of those of which nothing is left, whose jobs can be given back; and the
        directories of what could not be ended.
        """
        notes = {directory: recall(directory) for directory in self._attempts()}
        # abandon_after is for attempts that are started, and none is
        native = native_runtime(state_root=self._paths.state_dir, abandon_after=0)
        runtimes = [native, *self._recovering()]
        handles = [handle for runtime in runtimes for handle in runtime.recover()]
        try:
            for handle in handles:
                event("attempt.ending", attempt=str(handle.attempt))
                with contextlib.suppress(KeeperError):
                    handle.stop(grace)
            until = time.monotonic() + grace + _MARGIN
            for handle in handles:
                _end(handle, until)
        finally:
            native.close()
        for directory in self._attempts():
            _end_keeper(directory)
            record = lock.read(directory)
            self._clear(directory, record.slot if record else None)
        left = self._attempts()
        ended = [note for directory, note in notes.items() if note and directory not in left]
        return ended, left

    def clear_work(self, before: float | None) -> None:
        """Delete scratch directories of no attempt.

        ``before`` (seconds since the epoch): only those that were there by then, since a living
        worker may be about to start an attempt in a newer one; None: all of them.
        """
        for directory in _directories(self._paths.work):
            with contextlib.suppress(FileNotFoundError):
                newer = before is not None and directory.stat().st_mtime >= before
                if not newer and not (self._paths.attempts / directory.name).exists():
                    event("work.removed", directory=directory.name)
                    remove_tree(directory)

    def clear_temp(self, busy: Collection[str]) -> None:
        """Delete what the workers of slots other than ``busy`` put aside."""
        for directory in _directories(self._paths.temp):
            if directory.name not in busy:
                remove_tree(directory)

    def _attempts(self) -> list[Path]:
        return _directories(self._paths.attempts)

    def _settle(self, directory: Path, slot: str | None) -> None:
        note = recall(directory)
        if self._clear(directory, slot) and note is not None:
            self._gone(note)

    def _clear(self, directory: Path, slot: str | None) -> bool:
        """Whether a dead keeper's attempt is gone by it, with all that was left."""
        if lock.alive(directory):
            return False
        held = () if slot is None else (self._paths.leases / (slot + leases.SUFFIX),)
        done = settle(directory, held, timeout=_SETTLE_WITHIN)
        if done.outcome is not Settlement.ALIVE:
            blocked = done.outcome is Settlement.BLOCKED
            event(
                f"attempt.{done.outcome}",
                level=logging.ERROR if blocked else logging.INFO,
                attempt=directory.name,
                killed=list(done.killed),
                held=[str(path) for path in done.held],
            )
        return done.outcome is Settlement.SETTLED


def _directories(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir()) if path.is_dir() else []


def _end(handle: Handle, until: float) -> None:
    """Read to the end, so that a full spool keeps nothing from ending; then remove."""
    with contextlib.suppress(KeeperError):
        while time.monotonic() < until:
            item = handle.read(_READ_FOR)
            if isinstance(item, ExitStatus):
                break
            if isinstance(item, Chunk):
                handle.ack(item.stream, item.offset + len(item.data))
        else:
            handle.fence()
        handle.remove()


def _end_keeper(directory: Path) -> None:
    pid = end_keeper(directory)
    if pid is not None:
        event("keeper.killed", level=logging.WARNING, attempt=directory.name, pid=pid)
