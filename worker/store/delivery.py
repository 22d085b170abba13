"""Sends what a job left to the artefact store, and sees that it arrived."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from worker.plan import AttemptId
from worker.store.artifacts import Collected
from worker.store.policy import Policy
from worker.store.refusals import DataUnavailable
from worker.store.send import Waiting, send
from worker.store.sources import masked

log = logging.getLogger(__name__)

_TRIES: Final = 3
_FIRST_WAIT_S: Final = 1.0
_LOOK_S: Final = 0.1


def deliver(kept: Collected, attempt: AttemptId, policy: Policy, waiting: Waiting) -> Collected:
    """The files of ``kept`` at ``policy.artifacts``, beneath the job and the attempt; each is read
    back and compared. ``kept.directory`` is removed, whatever happens.

    Raises DataUnavailable, and what ``waiting.check`` raises.
    """
    try:
        if not kept.artifacts:
            return replace(kept, place="")
        url = f"{policy.artifacts.rstrip('/')}/{attempt.job_id}/{attempt.fence}"
        scheme = url.partition("://")[0]
        request = {
            "errand": "upload",
            "scheme": scheme,
            "url": url,
            "options": dict(policy.options.get(scheme, {})),
            "hosts": list(policy.hosts),
            "from": str(kept.directory),
            "files": [[one.name, one.size, one.sha256] for one in kept.artifacts],
        }
        uris = _patiently(request, waiting)
    finally:
        shutil.rmtree(kept.directory, ignore_errors=True)
    artifacts = tuple(replace(one, uri=uri) for one, uri in zip(kept.artifacts, uris, strict=True))
    return replace(kept, artifacts=artifacts, place=masked(url))


def _patiently(request: Mapping[str, object], waiting: Waiting) -> list[str]:
    """A run may have taken days: one lost connection must not cost it."""
    wait = _FIRST_WAIT_S
    for last in [*[False] * (_TRIES - 1), True]:
        try:
            done = send(request, lambda asked: {}, waiting)
            return [str(uri) for uri in done["uris"]]
        except DataUnavailable as error:
            if last:
                raise
            log.warning("artifacts.again error=%s", error)
        until = time.monotonic() + wait
        while time.monotonic() < until:
            waiting.check()
            time.sleep(_LOOK_S)
        wait *= 4
    raise AssertionError("unreachable")
