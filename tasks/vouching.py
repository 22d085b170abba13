"""A node's signed word of how a job ended: made by the node, checked by whoever asks for proof.

The signature is over the job, the SHA-256 of its configuration as it was run, attempt, fence,
node, slot, state, reason, message and the SHA-256 of the result. So none of these can be changed,
and none is good for another job, or another end of the same one. It stands in the job's record, in
the field ``proof``; what it is compared with is what the reader was told, by whatever way it came.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from tasks import jsonvalue
from tasks.errors import BadSignature, Forged, NotSigned
from tasks.events import Event
from tasks.recorded import Claimed, JobRecord
from tasks.roots import TrustRoot
from tasks.trust import SigningKey, base64_of, bytes_of

VERSION: Final = 1
PROOF: Final = "proof"
"""Field of the record."""
MOST_COUNT: Final = 2**53
"""More attempts, fences or batches no job has: Redis counts exactly up to there."""
_KIND: Final = b"cyxwiz end of a job 1\n"
_SKEW_S: Final = 60.0
"""By which a node's clock and a producer's may differ."""


@dataclass(frozen=True, kw_only=True, slots=True)
class End:
    """How a job ended."""

    state: str
    reason: str = ""
    message: str = ""
    result: Mapping[str, Any] | None = None
    """Of a success."""

    @classmethod
    def of(cls, record: JobRecord) -> End:
        """As the record has it."""
        return cls(
            state=str(record.state),
            reason=record.reason,
            message=record.message,
            result=record.result or None,
        )

    @classmethod
    def of_event(cls, event: Event) -> Self:
        """As a follower is told it."""
        return cls(
            state=event.type,
            reason=str(getattr(event, "reason", "")),
            message=getattr(event, "message", ""),
            result=getattr(event, "result", None) or None,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """What `check_end` needs of a record."""

    job_id: str
    node: str
    fence: int
    attempt: int
    proof: str
    spec_digest: str = ""


class Signer:
    """A node's key, its name, and the enrolment that it shows."""

    def __init__(
        self, key: SigningKey, node: str, slot: str, certificate: Mapping[str, Any] | None = None
    ) -> None:
        """``certificate``: of `tasks.enrolment`; None: whoever trusts the node has its key."""
        self.key = key
        self.node = node
        self.slot = slot
        self.certificate = certificate

    def proof(self, claim: Claimed, end: End, now: float | None = None) -> str:
        """For the record of a job that ends so with the attempt of ``claim``."""
        said = {
            "v": VERSION,
            "node": self.node,
            "slot": self.slot,
            "attempt": claim.attempt,
            "fence": claim.lease.fence,
            "spec": hashlib.sha256(claim.spec.encode()).hexdigest(),
            "at": int(time.time() if now is None else now),
        }
        signature = self.key.sign(_statement(claim.lease.job_id, said, end))
        return json.dumps(
            {
                **said,
                "key": self.key.public.key_id,
                "signature": base64_of(signature),
                **({"certificate": self.certificate} if self.certificate else {}),
            },
            separators=(",", ":"),
        )


def check_end(
    record: JobRecord | Held,
    end: End,
    root: TrustRoot,
    *,
    spec: str | None = None,
    since: float | None = None,
    now: float | None = None,
) -> str:
    """See that a trusted node has signed that the job ended as ``end``; returns the node.

    ``spec``: the SHA-256 of the configuration that was submitted, where the caller knows it; the
    record's else. ``since``: when it was submitted (seconds since the epoch), where the caller
    knows it: the same configuration may have run before under the same id. ``now``: seconds since
    the epoch; None: now.

    Raises NotSigned, NodeUntrusted, Forged.
    """
    proof, job = _object(record.proof), f"job {record.job_id}"
    if not record.proof:
        raise NotSigned(f"{job}: {_unsigned(record, end)}")
    if proof.get("v") != VERSION:
        raise NotSigned(
            f"{job}: its end is signed in version {proof.get('v')!r:.40}; this reads {VERSION}: "
            "upgrade cyxwiz-worker here"
        )
    node, key_id = str(proof.get("node")), str(proof.get("key"))
    key = root.key_of(node, key_id, proof.get("certificate"), now)
    said = {
        name: proof.get(name) for name in ("v", "node", "slot", "attempt", "fence", "spec", "at")
    }
    try:
        signature = bytes_of(str(proof.get("signature")))
        good = key.verifies(signature, _statement(record.job_id, said, end))
    except (BadSignature, ValueError, RecursionError):
        good = False
    if not good:
        raise Forged(
            f"{job}: what is told of its end ({end.state}) is not what node {node} has signed: it "
            "was changed, or the signature is of another job or another end"
        )
    fence, attempt = (counted(said[name]) for name in ("fence", "attempt"))
    if fence is None or attempt is None:
        raise Forged(f"{job}: its end is signed by node {node} without a fence and an attempt")
    held = (record.node, record.fence, record.attempt)
    if held != (node, fence, attempt):
        raise Forged(
            f"{job}: its end is signed by node {node} for attempt {attempt} (fence {fence}); by "
            f"its record node {record.node or 'none'} had it, with attempt {record.attempt} (fence "
            f"{record.fence})"
        )
    if said["spec"] != (record.spec_digest if spec is None else spec):
        raise Forged(
            f"{job}: node {node} has run another configuration than was submitted under this id"
        )
    at = counted(said["at"])
    if since is not None and (at is None or at < since - _SKEW_S):
        raise Forged(
            f"{job}: node {node} has signed its end at {at}, before it was submitted here (at "
            f"{since:.0f}): it is of an earlier job of this id, or one of the clocks is wrong"
        )
    return node


def counted(value: object) -> int | None:
    """A number of attempts, batches and the like as it must be in what a node signs; else None."""
    return value if type(value) is int and 0 <= value <= MOST_COUNT else None


def _statement(job_id: str, said: Mapping[str, Any], end: End) -> bytes:
    """Raises ValueError: something in it is no JSON."""
    result = "" if end.result is None else _digest(end.result)
    told = {"state": end.state, "reason": end.reason, "message": end.message, "result": result}
    return _KIND + jsonvalue.canonical({**said, **told, "job_id": job_id}).encode()


def _object(text: str) -> dict[str, Any]:
    """{} for what is none; then its signature is not good."""
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _digest(result: Mapping[str, Any]) -> str:
    text = json.dumps(result, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _unsigned(record: JobRecord | Held, end: End) -> str:
    """What an end without a signature may be."""
    told = ": ".join(filter(None, (end.state, end.reason, end.message)))
    match end.state:
        case "cancelled":
            why = "it was cancelled in the queue, or while no node answered for it"
        case "failed" if end.reason == "timeout" and not record.node:
            why = "it expired in the queue"
        case "failed" if end.reason == "node_lost":
            why = f"its node {record.node} lost its lease"
        case _:
            why = f"node {record.node or '?'} does not sign results (trust.sign_results)"
    return f"its end ({told}) is not signed by a node: {why}, or somebody else has written it"
