"""The job record in Redis: the truth about a job, of which its Celery message is only a hint.

Every method is one Lua script and one round trip. Redis's clock (TIME) is the only clock. Every
write on behalf of an attempt checks owner and fence first, in the script, and an attempt that
lost its lease gets `LeaseLost` and has written nothing. Finish and requeue may be said twice (the
answer to the first may have been lost); so may a batch of events that has a number.

Nothing here retries: `redis.RedisError` passes through.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import redis

from tasks.errors import JobConflict, LeaseLost, RecordGone, UnknownJob
from tasks.events import Event, Failed, Queued, encode, is_state
from tasks.keys import TERMINAL_TTL_S, Keys
from tasks.needs import Needs
from tasks.recorded import (
    Adopted,
    Claimed,
    Ending,
    JobRecord,
    Lease,
    Lost,
    NotClaimed,
    Reaped,
    Renewal,
    ResultMeta,
)
from tasks.scripts import Scripts
from tasks.state import TRANSITIONS, FailureReason, JobState

_GRACE_PART = 0.25
"""Part of the TTL that an expired lease stays unclaimable: the old keeper's local deadline has
then passed, whatever the pace of its clock."""

NOT_RUN = -1
"""Since when an attempt runs that has not begun to, or of which that is told already."""

__all__ = [
    "NOT_RUN",
    "Adopted",
    "Claimed",
    "Ending",
    "JobRecord",
    "Lease",
    "Lost",
    "NotClaimed",
    "Reaped",
    "Records",
    "Renewal",
    "tagged",
]


class Records:
    """The records under one prefix. Threads may share it; so may processes, after a fork."""

    def __init__(
        self, client: redis.Redis, keys: Keys, *, terminal_ttl_s: int = TERMINAL_TTL_S
    ) -> None:
        """``client`` decodes its answers. ``terminal_ttl_s``: how long an ended job's keys stay."""
        self.client = client
        self.keys = keys
        self.terminal_ttl_s = terminal_ttl_s
        self._scripts = Scripts(client, keys.prefix)

    def submit(
        self,
        *,
        job_id: str,
        spec: str,
        queue: str,
        priority_step: int,
        user_id: str,
        max_attempts: int,
        expires_ms: int,
        message: str,
        needs: Needs | None = None,
    ) -> bool:
        """Write the record as queued, with its `queued` event, and put its message into its queue.
        True if new, False if it stood.

        ``expires_ms``: positive: from now; negative: minus the ms since the epoch; 0: never.
        ``message``: as kombu's Redis transport would have it in its list, or ''.
        ``needs``: how its `queued` event says that no live node can serve it.

        Raises JobConflict if it stands with another ``spec``.
        """
        digest = hashlib.sha256(spec.encode()).hexdigest()
        tag = json.loads(message)["properties"]["delivery_tag"] if message else ""
        answer = self._scripts.call(
            "submit",
            job_id,
            spec,
            digest,
            queue,
            priority_step,
            user_id,
            max_attempts,
            expires_ms,
            message,
            tag,
            tagged(Queued(queue=queue)),
            *(needs.as_args() if needs else ("",)),
        )
        if answer == "CONFLICT":
            raise JobConflict(
                f"job_id {job_id!r} was submitted before, with another configuration; choose "
                "another job_id, or leave it out"
            )
        return bool(answer == "NEW")

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
            round(ttl_ms * _GRACE_PART),
            delivery_tag,
            self.terminal_ttl_s,
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
            progress=json.loads(progress or "{}"),
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

    def put_back(self, job_id: str, delivery_tag: str) -> bool:
        """Give a delivered message back to its queue, before all others; False: nobody has it."""
        return bool(self._scripts.call("return", job_id, delivery_tag, 0))

    def settle_delivered(self, job_id: str, delivery_tag: str) -> str:
        """As `put_back` if the job waits; drop the message if the job is over and Celery knows.

        For one whose worker may be dead. Returns 'put back', 'dropped' or ''.
        """
        return ("", "put back", "dropped")[
            int(self._scripts.call("return", job_id, delivery_tag, 1))
        ]

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
            self.terminal_ttl_s,
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
                self.terminal_ttl_s,
                failed or tagged(Failed(reason=reason, message=message)),
                ran_ms,
                *_fields(snapshot),
                *events,
            ),
            lease,
            again=True,
        )
        return JobState(str(answer).removeprefix("AGAIN "))

    def cancel(self, job_id: str, why: str) -> tuple[bool, JobState]:
        """Cancel a queued job at once, ask it of a running one.

        Returns whether it ended or will end by this, and its state. Raises UnknownJob.
        """
        answer, state = self._scripts.call("cancel", job_id, why, self.terminal_ttl_s)
        if answer == "UNKNOWN":
            raise _unknown(job_id)
        return answer != "ENDED", JobState(state)

    def reap(self, grace_ms: int | None) -> Reaped:
        """Deal with what is due; see `worker.node.reaper`.

        ``grace_ms``: how long after its expiry a lease counts as lost; None: none does now.
        """
        grace = -1 if grace_ms is None else grace_ms
        lost, pushed, expired, broken = self._scripts.call("reap", grace, self.terminal_ttl_s)
        for job_id in broken:
            self.bury(job_id)
        return Reaped(lost=lost, pushed=pushed, expired=expired)

    def bury(self, job_id: str) -> None:
        """Take a record out of the way that no script can work with. What there is of it is kept
        as ``broken:job:ID`` and the like, as long as an ended job's."""
        self._scripts.call("bury", job_id, self.terminal_ttl_s)

    def index(self, state: JobState, cursor: str) -> str:
        """See that some of the jobs in ``state`` are in the index of it and their users.

        ``cursor``: '0', then what the last call returned; '0' is the end.
        """
        return str(self._scripts.call("index", state, cursor, self.terminal_ttl_s))

    def forget(self, queues: Sequence[str]) -> int:
        """Of ``queues``, forget those that are empty and that no live node reads; how many."""
        return int(self._scripts.call("forget", *queues)) if queues else 0

    def repush(self, job_id: str, waiting_since: str) -> bool:
        """Push a queued job's message again, unless something happened to it since."""
        return bool(self._scripts.call("repush", job_id, waiting_since, self.terminal_ttl_s))

    def untold(self) -> list[str]:
        """Ended jobs of which Celery should have a result by now, and nobody has said that it has.

        Each is named again after 30 s, 60 s, … (at most an hour), until `mark_result_stored`.
        """
        found: list[str] = self._scripts.call("untold")
        return found

    def retell(self, job_id: str) -> bool:
        """Push an ended job's message again, so that a worker tells Celery how it ended."""
        return bool(self._scripts.call("retell", job_id))

    def ending(self, job_id: str) -> Ending:
        """How a job ended, and what its message said. Raises UnknownJob."""
        names = ("state", "result", "reason", "error", "message", "result_stored")
        found: list[Any] = self.client.hmget(self.keys.job(job_id), names)
        state, result, reason, error, message, stored = found
        if state is None:
            raise _unknown(job_id)
        return Ending(
            state=JobState(state),
            result=json.loads(result or "{}"),
            reason=reason or "",
            message=error or "",
            kombu_message=message or "",
            result_stored=stored == "1",
        )

    def mark_result_stored(self, job_id: str) -> None:
        """Celery has the result of this ended job."""
        self._scripts.call("stored", job_id)

    def get(self, job_id: str) -> JobRecord:
        """The record as it stands. Raises UnknownJob."""
        found: dict[str, str] = self.client.hgetall(self.keys.job(job_id))  # type: ignore[assignment]  # a sync client
        if "spec" not in found:
            raise _unknown(job_id)

        def seconds(name: str) -> float:
            return float(found.get(name) or 0) / 1000

        return JobRecord(
            job_id=job_id,
            state=JobState(found["state"]),
            queue=found["queue"],
            user_id=found["user"],
            attempt=int(found["attempt"]),
            max_attempts=int(found["max_attempts"]),
            fence=int(found["fence"]),
            node=found["node"],
            slot=found["slot"],
            submitted=seconds("submitted"),
            started=seconds("started"),
            finished=seconds("finished"),
            reason=found["reason"],
            message=found["error"],
            cancel=found["cancel"],
            spec=json.loads(found["spec"]),
            result=json.loads(found.get("result") or "{}"),
            progress=json.loads(found.get("progress") or "{}"),
            seq=int(found["seq"]),
            image=found.get("image", ""),
            sandbox=json.loads(found.get("sandbox") or "{}"),
            proof=found.get("proof", ""),
            spec_digest=hashlib.sha256(found["spec"].encode()).hexdigest(),
        )


def tagged(event: Event) -> str:
    """An event as the scripts take it: 's' for a state event, 't' for the tail, then its JSON."""
    return ("s" if is_state(event) else "t") + encode(event)


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


def _unknown(job_id: str) -> UnknownJob:
    return UnknownJob(
        f"no job {job_id!r}: it was never submitted to this Redis under this prefix, or its "
        "record has expired"
    )
