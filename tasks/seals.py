"""Signed events: a node seals what it sends, and a follower who asks for proof checks it.

A node sends events in batches. Each batch has one seal or two: one on its last state event, over
all up to that, and one on its last event, over the rest. (What the job prints goes from the history
before state events do, and the seals of those must stay.) A seal has a digest of each event that it
is over, so an event that is still there can be checked when others are not; and the batch's number,
without gaps in an attempt, so nothing can be left out, put in, or said again.

What Redis adds, `seq` and `ts`, is not sealed: the order is checked by the seals, the time is
Redis's word. Nor are the few events that no node says: that a job is queued, that its node is lost.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tasks import jsonvalue
from tasks.events import SEAL
from tasks.trust import base64_of
from tasks.vouching import Signer

VERSION: Final = 1
BATCH: Final = "batch"
RESTORED: Final = "restored"
"""The record was lost and is written again: ``batch`` is the last one that was said before."""
DIGEST_BYTES: Final = 16
_KIND: Final = b"cyxwiz events of a job 1\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sealer:
    """Seals the events of one attempt."""

    signer: Signer
    job_id: str
    fence: int
    attempt: int

    def seal(self, bodies: Sequence[str], batch: int, kind: str = BATCH) -> list[str]:
        """``bodies`` (by `tasks.leases.tagged`) of one batch, sealed. ``batch``: its number."""
        if not bodies:
            return []
        out = list(bodies)
        last_state = max((i for i, body in enumerate(out) if body[0] == "s"), default=-1)
        ends = sorted({end for end in (last_state, len(out) - 1) if end >= 0})
        begin = 0
        for part, end in enumerate(ends):
            digests = b"".join(digest(body[1:]) for body in out[begin : end + 1])
            seal: dict[str, Any] = {
                "v": VERSION,
                "kind": kind,
                "fence": self.fence,
                "batch": batch,
                "part": part,
                "parts": len(ends),
                "digests": base64_of(digests),
                "key": self.signer.key.public.key_id,
            }
            place = (self.signer.node, self.signer.slot, self.attempt)
            signature = self.signer.key.sign(statement(self.job_id, place, seal))
            seal["signature"] = base64_of(signature)
            if out[end][0] == "s" and self.signer.certificate:  # else an earlier one has it
                seal["certificate"] = self.signer.certificate
            sealed = json.dumps(seal, separators=(",", ":"))
            out[end] = f'{out[end][:-1]},"{SEAL}":{sealed}}}'
            begin = end + 1
        return out


def digest(body: str) -> bytes:
    """Of an event's JSON object as it is sent, without its seal."""
    return hashlib.sha256(body.encode()).digest()[:DIGEST_BYTES]


def statement(job_id: str, place: tuple[str, str, int], seal: Mapping[str, Any]) -> bytes:
    """What is signed. ``place``: node, slot and attempt. Raises ValueError: some is no JSON."""
    node, slot, attempt = place
    names = ("v", "kind", "fence", "batch", "part", "parts", "digests", "key")
    said = {name: seal.get(name) for name in names}
    told = {"job_id": job_id, "node": node, "slot": slot, "attempt": attempt}
    return _KIND + jsonvalue.canonical({**said, **told}).encode()
