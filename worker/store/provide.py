"""All that a job's attempt is given of data and code: got before it starts, kept until it ends."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tasks.job import JobConfig
from worker.store.cache import Cache, Entry
from worker.store.code import Code, CodeStore
from worker.store.datasets import Data, data_of
from worker.store.fetching import Fetcher, Moved
from worker.store.policy import Policy
from worker.store.refusals import NoRoom
from worker.store.send import Waiting
from worker.store.sources import parse
from worker.store.unpacking import Unpacker

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Provided:
    """Data and code of one attempt, kept in the cache until this and whoever has `fds` closes."""

    data: Data | None = None
    code: Code | None = None

    @property
    def data_path(self) -> Path | None:
        """The data, read-only; None where the job has none, or brings its own."""
        return None if self.data is None else self.data.path

    @property
    def fds(self) -> tuple[int, ...]:
        """Open files that keep both in the cache: for a keeper, which may outlive this process."""
        return tuple(entry.held.fd for entry in self._entries())

    def close(self) -> None:
        """Safe to call twice."""
        for entry in self._entries():
            entry.close()

    def _entries(self) -> list[Entry]:
        found = [] if self.code is None else [self.code.entry]
        return found if self.data is None or self.data.entry is None else [*found, self.data.entry]


class Store:
    """A node's data store, as the attempts of a slot use it."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._cache = Cache(policy.cache, cap=policy.cap, keep_free=policy.keep_free)

    def provide(
        self,
        job: JobConfig,
        *,
        check: Callable[[], None] = lambda: None,
        moved: Callable[[str, Moved], None] = lambda shown, moved: None,
    ) -> Provided:
        """What ``job`` names. ``check``: called all the while; raises to end it. ``moved``: told
        how far the transfer of which URL is.

        Raises `worker.store.refusals`' errors, and what ``check`` raises.
        """
        schemes = self._policy.schemes
        data_from = job.dataset_uri and parse("dataset_uri", job.dataset_uri, schemes)
        code_from = job.code_uri and parse("code_uri", job.code_uri, schemes)
        fetcher = Fetcher(self._cache, self._policy, check=check, moved=moved)
        waiting = Waiting(stall=self._policy.stall, check=check)
        code = data = None
        try:
            if code_from and job.script is not None:  # it is small: what is wrong shows sooner
                store = CodeStore(self._cache, self._policy, fetcher, waiting)
                code = store.get(code_from, job.script)
            if data_from:
                # the built-in runner reads folders; a program is given what it has named
                trains = job.model_definition is not None
                unpacker = Unpacker(self._cache, waiting) if trains else None
                data = data_of(data_from, self._policy, fetcher, check, unpacker)
        except OSError as error:
            _close(code)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoRoom(f"this node's disk is full: {error.filename}") from None
            raise
        except BaseException:
            _close(code)
            raise
        return Provided(data=data, code=code)

    def sweep(self) -> None:
        """Remove what processes that died left half done. Never raises: it is a courtesy."""
        try:
            self._cache.sweep()
        except OSError as error:
            log.warning("cache.unswept error=%s", error)


def _close(code: Code | None) -> None:
    if code is not None:
        code.entry.close()
