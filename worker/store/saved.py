"""Copies of checkpoints in a store: sent, brought back, removed.

Beneath the store's URL each job has a folder, in it each binding (`worker.binding`) another, and in
that each file the name of its content's SHA-256; a list of files, named in the same way, makes a
snapshot of them. So what two snapshots have in common is sent once, and nothing that is there is
ever written over. Versions before bindings had the files in the job's folder itself.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from tasks.job import is_job_id
from worker.binding import UNBOUND, is_binding
from worker.store.disk import free_bytes
from worker.store.policy import Policy
from worker.store.refusals import DataRefused, NoRoom
from worker.store.send import TooLarge, Waiting, send
from worker.store.snapshot import Snapshot
from worker.store.sources import masked

_FOLDER: Final = "_checkpoints"
"""No job is called so: artefacts may have the same URL."""


class SavedCheckpoints:
    """In the store of one node."""

    def __init__(self, policy: Policy, url: str) -> None:
        self._policy = policy
        self._url = url.rstrip("/")
        self.id = hashlib.sha256(masked(self._url).encode()).hexdigest()[:16]
        """Which store it is; the same for all nodes that have the same URL."""
        self.stall = policy.stall
        """Seconds that a transfer may stand still."""

    def send(
        self,
        job_id: str,
        bound: str,
        staging: Path,
        snapshot: Snapshot,
        old: Collection[str],
        waiting: Waiting,
    ) -> None:
        """Put what is fresh there, each file read back and compared; then remove the ``old``.

        Raises DataUnavailable, DataRefused, and what ``waiting.check`` raises.
        """
        request = {
            **self._request("upload", job_id, bound),
            "from": str(staging),
            "files": [[one.name, one.size, one.sha256] for one in snapshot.fresh],
            "by_content": True,
            "remove": sorted(old),
        }
        send(request, lambda asked: {}, waiting)

    def bring(self, job_id: str, bound: str, listing: str, into: Path, waiting: Waiting) -> int:
        """Make ``into`` anew with the snapshot's files, each compared; returns their bytes.

        Raises DataUnavailable, DataRefused (it is not what was sent), NoRoom, and what
        ``waiting.check`` raises; nothing is left then.
        """
        shutil.rmtree(into, ignore_errors=True)
        into.mkdir(parents=True, mode=0o700)
        policy = self._policy
        room = max(0, free_bytes(into) - policy.keep_free)
        request = {
            **self._request("bring", job_id, bound),
            "listing": listing,
            "into": str(into),
            "most_bytes": min(room, policy.output_bytes or room),
        }
        try:
            return int(send(request, lambda asked: {}, waiting)["bytes"])
        except TooLarge as error:
            shutil.rmtree(into, ignore_errors=True)
            raise NoRoom(str(error)) from None
        except BaseException:
            shutil.rmtree(into, ignore_errors=True)
            raise

    def remove(self, job_id: str, waiting: Waiting) -> None:
        """All that the job has there. Raises DataUnavailable, DataRefused."""
        send(self._request("remove", job_id), lambda asked: {}, waiting)

    def _request(self, errand: str, job_id: str, bound: str = UNBOUND) -> Mapping[str, Any]:
        if not is_job_id(job_id):
            raise DataRefused(f"{job_id[:200]!r} is no job's id")
        if bound != UNBOUND and not is_binding(bound):
            raise DataRefused(f"{bound[:200]!r} is no binding")
        scheme = self._url.partition("://")[0]
        return {
            "errand": errand,
            "scheme": scheme,
            "url": f"{self._url}/{_FOLDER}/{job_id}{'/' if bound else ''}{bound}",
            "options": dict(self._policy.options.get(scheme, {})),
            "hosts": list(self._policy.hosts),
        }
