"""Celery's remote control, in which revoking a job cancels it."""

from __future__ import annotations

from typing import Any, Final

from celery.app.control import Control

from tasks.errors import UnknownJob

_REVOKES: Final = ("revoke", "terminate")


class JobControl(Control):  # type: ignore[misc]  # Celery has no type hints
    """`AsyncResult.revoke`, Flower's buttons and ``celery control revoke`` all come by here."""

    def broadcast(self, command: str, arguments: Any = None, *args: Any, **options: Any) -> Any:
        """Cancel the jobs among the ids of a revoke, record and process both; the rest is Celery's.

        A worker that only heard of a revoke would drop the message of a job that its record says
        is queued, or have its own pool child killed.
        """
        if command not in _REVOKES:
            return super().broadcast(command, arguments, *args, **options)
        given = dict(arguments or {})
        ids = given.get("task_id")
        others, replies = [], []
        for one in [ids] if isinstance(ids, str) else list(ids or ()):
            try:
                replies.append({"hub": {"ok": self._cancel(one)}})
            except UnknownJob:
                others.append(one)
        if others or not replies:
            given["task_id"] = others
            replies += super().broadcast(command, given, *args, **options) or ()
        elif callback := options.get("callback"):
            for reply in replies:
                callback(reply)
        return replies if options.get("reply") else None

    def _cancel(self, job_id: str) -> str:
        from tasks.control import cancel

        found = cancel(job_id, "revoked", app=self.app)
        if not found.changed:
            return f"job {job_id} had ended: {found.state}"
        return f"job {job_id} {'is' if found.state.terminal else 'is being'} cancelled"
