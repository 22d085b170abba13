"""What one attempt leaves in the node's audit: a line before it starts, and one at its end."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from tasks import jsonvalue
from tasks.job import JobConfig
from tasks.state import FailureReason
from worker.admission import Admitted
from worker.launchers import Picked
from worker.node.audit import Audit
from worker.plan import AttemptId, LaunchPlan
from worker.trust.commanding import Denied
from worker.trust.keyring import UNSIGNED, Standing
from worker.turned_away import TurnedAway

log = logging.getLogger(__name__)


class Audited:
    """Of one attempt."""

    def __init__(self, audit: Audit, attempt: AttemptId, number: int) -> None:
        """``number``: 1 for the first attempt."""
        self._audit = audit
        self._named = {"job": attempt.job_id, "fence": attempt.fence, "attempt": number}
        self.standing: Standing = UNSIGNED
        """Whose job it is, as soon as that is known."""

    def starts(
        self, job: JobConfig, digest: str, plan: LaunchPlan, admitted: Admitted, picked: Picked
    ) -> None:
        """``digest``: of ``job``. Raises TurnedAway: an attempt that cannot be written down is not
        started."""
        key = self.standing.key
        fields: dict[str, Any] = {
            "user": job.user_id,
            "key": None if key is None else {"name": key.name, "id": key.key_id},
            "spec": digest,
            "mode": admitted.mode,
            "sandbox_level": int(admitted.level),
            "why": admitted.why,
            "image": picked.reference,
            "image_id": picked.id,
            "digest": picked.digest,
            "devices": list(plan.grant.devices),
            "network": str(job.network),
            "secrets": list(job.secrets),
        }
        try:
            self._audit.write("started", **self._named, **fields)
        except OSError as error:
            raise TurnedAway.handed_back(
                FailureReason.ENGINE_ERROR, f"the audit cannot be written: {error}"
            ) from None

    def commanded(self, key: str, argv: Sequence[str], seconds: float) -> None:
        """A command is to run beside it. Raises Denied: that cannot be written down."""
        try:
            self._audit.write(
                "exec", **self._named, key=key, argv=jsonvalue.canonical(argv), seconds=seconds
            )
        except OSError as error:
            raise Denied(f"the audit cannot be written: {error}") from None

    def command_ended(self, code: int | None, why: str) -> None:
        """Of `commanded`. What cannot be written is said in the log."""
        try:
            self._audit.write("exec_ended", **self._named, code=code, why=why)
        except OSError as error:
            log.error("audit.unwritten job=%s error=%s", self._named["job"], error)

    def ended(self, state: str, reason: str, message: str) -> None:
        """However it ended, if only by a lost lease. What cannot be written is said in the log."""
        try:
            self._audit.write("ended", **self._named, state=state, reason=reason, message=message)
        except OSError as error:
            log.error("audit.unwritten job=%s error=%s", self._named["job"], error)
