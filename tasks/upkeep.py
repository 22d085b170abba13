"""What keeps records and messages of jobs in order without a lease: most of it is the reaper's."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.recorded import Reaped
from tasks.scripts import Scripts
from tasks.state import JobState


class Upkeep:
    """Of the records under one prefix: see `tasks.record.Records.upkeep`."""

    def __init__(self, scripts: Scripts, terminal_ttl_s: int) -> None:
        """``terminal_ttl_s``: how long an ended job's keys stay, and a broken record's."""
        self._scripts = scripts
        self._terminal_ttl_s = terminal_ttl_s

    def reap(self, grace_ms: int | None) -> Reaped:
        """Deal with what is due; see `worker.node.reaper`.

        ``grace_ms``: how long after its expiry a lease counts as lost; None: none does now.
        """
        grace = -1 if grace_ms is None else grace_ms
        lost, pushed, expired, broken = self._scripts.call("reap", grace, self._terminal_ttl_s)
        for job_id in broken:
            self.bury(job_id)
        return Reaped(lost=lost, pushed=pushed, expired=expired)

    def bury(self, job_id: str) -> None:
        """Take a record out of the way that no script can work with. What there is of it is kept
        as ``broken:job:ID`` and the like, as long as an ended job's."""
        self._scripts.call("bury", job_id, self._terminal_ttl_s)

    def index(self, state: JobState, cursor: str) -> str:
        """See that some of the jobs in ``state`` are in the index of it and their users.

        ``cursor``: '0', then what the last call returned; '0' is the end.
        """
        return str(self._scripts.call("index", state, cursor, self._terminal_ttl_s))

    def forget(self, queues: Sequence[str]) -> int:
        """Of ``queues``, forget those that are empty and that no live node reads; how many."""
        return int(self._scripts.call("forget", *queues)) if queues else 0

    def put_back(self, job_id: str, delivery_tag: str) -> bool:
        """Give a delivered message back to its queue, before all others; False: nobody has it."""
        return bool(self._scripts.call("return", job_id, delivery_tag, 0))

    def settle_delivered(self, job_id: str, delivery_tag: str) -> str:
        """As `put_back` if the job waits; drop the message if the job is over and Celery knows, and
        a summons to one slot, which a living one sends again.

        For one whose worker may be dead. Returns 'put back', 'dropped' or ''.
        """
        return ("", "put back", "dropped")[
            int(self._scripts.call("return", job_id, delivery_tag, 1))
        ]

    def repush(self, job_id: str, waiting_since: str) -> bool:
        """Push a queued job's message again, unless something happened to it since."""
        return bool(self._scripts.call("repush", job_id, waiting_since, self._terminal_ttl_s))

    def untold(self) -> list[str]:
        """Ended jobs of which Celery should have a result by now, and nobody has said that it has.

        Each is named again after 30 s, 60 s, … (at most an hour), until
        `Records.mark_result_stored`.
        """
        found: list[str] = self._scripts.call("untold")
        return found
