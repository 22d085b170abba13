"""What the holder of a lease may do to its job's record: claim it, go on with it, end it.

Every write checks owner and fence first, in the script, and an attempt that lost its lease gets
`LeaseLost` and has written nothing. Finish and requeue may be said twice (the answer to the first
may have been lost); so may a batch of events that has a number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tasks.errors import LeaseLost, RecordGone
from tasks.events import Event, Failed, encode, is_state
from tasks.recorded import Adopted, Claimed, Lease, Lost, NotClaimed, Renewal, ResultMeta
from tasks.scripts import Scripts
from tasks.state import TRANSITIONS, FailureReason, JobState

GRACE_PART: Final = 0.25
"""Part of the TTL that an expired lease stays unclaimable: the old keeper's local deadline has
then passed, whatever the pace of its clock. The reaper leaves it alone for as long."""

NOT_RUN: Final = -1
"""Since when an attempt runs that has not begun to, or of which that is told already."""


class Leases:
    """Those of jobs whose records are under one prefix: see `tasks.record.Records.leases`."""

    def __init__(self, scripts: Scripts, terminal_ttl_s: int) -> None:
        """``terminal_ttl_s``: how long an ended job's keys stay."""
        self._scripts = scripts
        self._terminal_ttl_s = terminal_ttl_s

    def claim(
        self,
        job_id: str,
        *,
        owner: str,
        node: str,
        slot: str,
        ttl_ms: int,
        delivery_tag: str,
        gpus: int = 0,
    ) -> Claimed | NotClaimed:
        """Take the job, and acknowledge the message ``delivery_tag``, in one step.

        ``owner``: unique to this attempt; the same owner claims again with the same answer. A
        lease that ran out can be taken over only a quarter of ``ttl_ms`` later. ``gpus``: of the
        slot, whose time is counted to the job's user.
        """
        answer = self._scripts.call(
            "claim",
            job_id,
            owner,
            node,
            slot,
            ttl_ms,
            round(ttl_ms * GRACE_PART),
            delivery_tag,
            self._terminal_ttl_s,
            gpus,
        )
        if answer[0] == "OK":
            _, fence, attempt, spec, last_reason, image, reference, everywhere, *sent = answer
            lease = Lease(job_id=job_id, owner=owner, fence=int(fence))
            return Claimed(
                lease=lease,
                attempt=int(attempt),
                spec=spec,
                last_reason=last_reason,
                image=image,
                image_reference=reference,
                handed_back_everywhere=everywhere,
                message=sent[0],
                message_tag=sent[1],
            )
        _, why, state, result, reason, message, stored = answer
        return NotClaimed(
            why=why,
            state=JobState(state or JobState.QUEUED),
            result=result,
            reason=reason,
            message=message,
            result_stored=stored == "1",
        )

    def renew(self, lease: Lease, ttl_ms: int) -> Renewal:
        """The lease holds for ``ttl_ms`` from now. Raises LeaseLost."""
        return Renewal(cancel=_held(self._scripts.call("renew", *_of(lease), ttl_ms), lease)[1])

    def adopt(self, lease: Lease, ttl_ms: int, *, former: Sequence[str]) -> Adopted:
        """Take over a running attempt from a dead supervisor of the same node: its fence stays, its
        owner becomes that of ``lease``, and the lease holds for ``ttl_ms`` from now.

        ``former``: owners that it may be taken over from. May be said twice. Raises LeaseLost.
        """
        answer = _held(self._scripts.call("adopt", *_of(lease), ttl_ms, *former), lease)
        _, state, attempt, batch, reading, progress, has_message, times = answer
        return Adopted(
            state=JobState(state),
            attempt=int(attempt),
            batch=int(batch),
            reading=reading,
            progress=_object(progress),
            has_message=bool(has_message),
            times=int(times),
        )

    def restore(
        self,
        claim: Claimed,
        lost: Lost,
        ttl_ms: int,
        *,
        seq: int,
        batch: int,
        event: str,
        queue_in_ms: int | None = None,
    ) -> None:
        """Write the record of a running attempt again, which Redis has lost, with ``event`` (by
        `tagged`).

        ``seq``, ``batch``: the last that were published. ``queue_in_ms``: the attempt is gone, and
        its lease may have run out before: the job is queued, and its message sent after so long;
        no attempt is counted.

        Raises LeaseLost: somebody has a newer fence, or the same one; with ``queue_in_ms``: there
        is a record.
        """
        answer = self._scripts.call(
            "restore",
            *_of(claim.lease),
            ttl_ms,
            claim.attempt if queue_in_ms is None else max(0, claim.attempt - 1),
            claim.spec,
            hashlib.sha256(claim.spec.encode()).hexdigest(),
            lost.queue,
            lost.priority_step,
            lost.user_id,
            lost.max_attempts,
            lost.node,
            lost.slot,
            lost.gpus,
            seq,
            batch,
            event,
            claim.message,
            claim.message_tag,
            "" if queue_in_ms is None else queue_in_ms,
        )
        _held(answer, claim.lease)

    def summon(self, lease: Lease, queue: str) -> bool:
        """Push the job's message to ``queue``, a slot's own: the attempt is there. False: there is
        no message. Raises LeaseLost."""
        return bool(_held(self._scripts.call("summon", *_of(lease), queue), lease))

    def spend(self, lease: Lease, nonce: str, ttl_ms: int) -> str:
        """Use a signature's nonce for this submission of the job, and remember it for ``ttl_ms``.

        Returns '' if it was free, or this submission's already; else ``JOB@SUBMITTED`` of the one
        that had it. Raises LeaseLost.
        """
        return str(_held(self._scripts.call("spend", *_of(lease), nonce, ttl_ms), lease))

    def publish(
        self,
        lease: Lease,
        events: Sequence[str],
        *,
        state: JobState | None = None,
        snapshot: Mapping[str, str] | None = None,
        batch: int = 0,
    ) -> int:
        """Number, store and publish ``events`` (by `tagged`); returns the last seq.

        ``state``: go there with them. ``snapshot``: fields of the record to set. ``batch``: above
        0 and rising with every call of an attempt; a number that was there before is not written
        again.

        Raises LeaseLost, and ValueError for a transition that the table forbids.
        """
        before = "".join(f",{one}" for one, after in TRANSITIONS.items() if state in after)
        answer = _held(
            self._scripts.call(
                "publish",
                *_of(lease),
                batch,
                state or "",
                f"{before},",
                *_fields(snapshot),
                *events,
            ),
            lease,
        )
        if isinstance(answer, str) and answer.startswith("STATE "):
            raise ValueError(f"job {lease.job_id} cannot go from {answer[6:]} to {state}")
        return int(answer)

    def finish(
        self,
        lease: Lease,
        state: JobState,
        events: Sequence[str],
        *,
        reason: FailureReason | None,
        message: str,
        result: Mapping[str, Any],
        snapshot: Mapping[str, str] | None = None,
        ran_ms: int = NOT_RUN,
        meta: ResultMeta | None = None,
    ) -> bool:
        """End the job, with ``events``, the last of which says how. Whether ``meta`` is stored.

        ``snapshot``: as of `publish`. ``ran_ms``: how long ago it began to run, if that is told
        only now. ``meta``: Celery's result, to be stored with it.

        Raises LeaseLost, and ValueError for a ``state`` that is no end.
        """
        if not state.terminal:
            raise ValueError(f"a job cannot end as {state}")
        answer = self._scripts.call(
            "finish",
            *_of(lease),
            state,
            reason or "",
            message,
            json.dumps(result) if result else "",
            self._terminal_ttl_s,
            ran_ms,
            *(("", "", 0, 0) if meta is None else meta.as_args()),
            *_fields(snapshot),
            *events,
        )
        return bool(_held(answer, lease, again=True) == "STORED")

    def requeue(
        self,
        lease: Lease,
        events: Sequence[str],
        *,
        reason: FailureReason,
        message: str,
        delay_ms: int,
        counts: bool,
        avoid_node: str = "",
        avoid_ms: int = 0,
        snapshot: Mapping[str, str] | None = None,
        ran_ms: int = NOT_RUN,
        failed: str = "",
    ) -> JobState:
        """Give the job back to its queue; returns the state that it is in then.

        ``counts``: it was an attempt; if no more are left, the job is failed with ``reason``. It
        is cancelled if that was asked for. ``avoid_node`` does not get it for ``avoid_ms``. The
        last of ``events`` is the one that is replaced then; ``failed`` is by what (by `tagged`), if
        no attempt is left. The rest is as of `finish`.

        Raises LeaseLost.
        """
        answer = _held(
            self._scripts.call(
                "requeue",
                *_of(lease),
                reason,
                message,
                delay_ms,
                int(counts),
                avoid_node,
                avoid_ms,
                self._terminal_ttl_s,
                failed or tagged(Failed(reason=reason, message=message)),
                ran_ms,
                *_fields(snapshot),
                *events,
            ),
            lease,
            again=True,
        )
        return JobState(str(answer).removeprefix("AGAIN "))


def tagged(event: Event) -> str:
    """An event as the scripts take it: 's' for a state event, 't' for the tail, then its JSON."""
    return ("s" if is_state(event) else "t") + encode(event)


def _object(text: str) -> Mapping[str, Any]:
    """{} for what is none: only progress is lost by it."""
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _fields(snapshot: Mapping[str, str] | None) -> list[str | int]:
    """Fields of the record to be set, as the scripts take them."""
    flat = [text for item in (snapshot or {}).items() for text in item]
    return [len(flat), *flat]


def _of(lease: Lease) -> tuple[str, str, int]:
    return lease.job_id, lease.owner, lease.fence


def _held(answer: Any, lease: Lease, *, again: bool = False) -> Any:
    """``again``: this attempt has ended the job, or given it back, and says so once more."""
    said = isinstance(answer, str) and answer.startswith("AGAIN ")
    if answer == "GONE":
        raise RecordGone(f"job {lease.job_id}: its record is gone")
    if answer == "LOST" or (said and not again):
        raise LeaseLost(f"job {lease.job_id}: fence {lease.fence} is not the holder any more")
    return answer
