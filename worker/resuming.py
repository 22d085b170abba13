"""Brings an attempt the checkpoints that an earlier one on another node has sent to the store.

What cannot be brought, is not what was sent or is bound to another job (`worker.binding`) is not
used: the job begins with what this node has, or anew. Nothing of this can fail an attempt.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tasks.recorded import Lease
from tasks.sent import Sent, SentCheckpoints
from worker.binding import Binding
from worker.checkpoints import Checkpoints, Mark
from worker.store.refusals import DataUnavailable, StoreError
from worker.store.saved import SavedCheckpoints
from worker.store.send import Waiting

log = logging.getLogger(__name__)

_AGAIN_S: Final = (0.5, 2.0)
_LOOK_S: Final = 0.1


class Resuming:
    """On one node."""

    def __init__(
        self,
        store: SavedCheckpoints,
        index: SentCheckpoints,
        checkpoints: Checkpoints,
    ) -> None:
        self._store = store
        self._index = index
        self._checkpoints = checkpoints

    def bring(
        self,
        lease: Lease,
        binding: Binding,
        *,
        sure: Callable[[Callable[[], Any]], Any],
        lasts: Callable[[], None],
        check: Callable[[], None],
    ) -> bool:
        """Whether what is there is another's, and is left alone.

        ``sure``: asks Redis until it answers. ``lasts``: called before what takes time.
        ``check``: called all the while; raises to end it.
        """
        job_id, bound = lease.job_id, binding.name
        mark = self._checkpoints.mark(job_id, bound)
        sent: Sent | None = sure(lambda: self._index.of(job_id))
        anothers = sent is not None and not binding.takes(sent.bound)
        # what the same attempt left here is as new as what it sent, or newer
        if (
            sent is not None
            and not anothers
            and (sent.fence > mark.fence or not self._checkpoints.has_any(job_id, bound))
        ):
            if sent.store == self._store.id:
                lasts()
                waiting = Waiting(stall=self._store.stall, check=check)
                self._bring(job_id, bound, sent, waiting)
            else:
                log.warning("checkpoint.in_another_store job=%s", job_id)
        try:
            self._checkpoints.write_mark(job_id, bound, Mark(fence=lease.fence, names=mark.names))
        except OSError as error:
            log.warning("checkpoint.unmarked job=%s error=%s", job_id, error)
        return anothers

    def _bring(self, job_id: str, bound: str, sent: Sent, waiting: Waiting) -> None:
        # its own: an attempt that has lost the job may be at the same here
        into = self._checkpoints.paths.job(job_id) / f"bringing-{bound}"
        for wait in (*_AGAIN_S, None):
            try:
                size = self._store.bring(job_id, sent.bound, sent.sha256, into, waiting)
                self._put_in_place(into, self._checkpoints.of(job_id, bound))
            except DataUnavailable as error:
                log.warning("checkpoint.unbrought job=%s error=%s", job_id, error)
                if wait is not None:
                    _pause(wait, waiting)
            except StoreError as error:  # damaged, or too large for this node
                log.error("checkpoint.unusable job=%s error=%s", job_id, error)
                return
            except OSError as error:
                log.error("checkpoint.unbrought job=%s error=%s", job_id, error)
                return
            else:
                log.info("checkpoint.brought job=%s fence=%d bytes=%d", job_id, sent.fence, size)
                return

    @staticmethod
    def _put_in_place(brought: Path, here: Path) -> None:
        """Instead of what is older here."""
        old = brought.with_name(brought.name.replace("bringing", "older", 1))
        shutil.rmtree(old, ignore_errors=True)
        if here.exists():
            here.rename(old)
        brought.rename(here)
        shutil.rmtree(old, ignore_errors=True)


def _pause(seconds: float, waiting: Waiting) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        waiting.check()
        time.sleep(_LOOK_S)
