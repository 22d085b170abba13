"""Checks the seals of a job's events, as a follower gives them out; see `tasks.seals`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tasks.errors import BadSignature, Forged, NotSigned
from tasks.events import SEAL, Envelope, Queued, Retrying, is_end, unpacked
from tasks.roots import TrustRoot
from tasks.seals import (
    BATCH,
    DIGEST_BYTES,
    RESTORED,
    VERSION,
    digest,
    statement,
)
from tasks.state import FailureReason
from tasks.trust import bytes_of
from tasks.vouching import End, Held, check_end, counted


@dataclass(frozen=True, kw_only=True, slots=True)
class Sealed(Envelope):
    """An event as it was read, and what its check needs."""

    digest: bytes
    seal: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class _At:
    """How far the check is."""

    seq: int = 0
    """Of the last event that was checked."""
    fence: int = 0
    batch: int = 0
    """The batch that is next …"""
    part: int = 0
    """… and which part of it."""
    last: tuple[int, int, str] = (0, 0, "")
    """The last seal: batch, part, digests."""


class Checker:
    """Of one follower. A list of events is checked as a whole, or nothing of it counts."""

    def __init__(self, job_id: str, root: TrustRoot, spec: str | None = None) -> None:
        """``spec``: the SHA-256 of the configuration that was submitted, if that is known."""
        self._job_id = job_id
        self._root = root
        self._spec = spec
        self._at = _At()
        self._shown: dict[str, Any] = {}
        """Enrolments, by the node's key: not every seal has it."""

    def read(self, text: str) -> Envelope:
        """`tasks.events.decode`, but it keeps what `check` needs. Raises ValueError."""
        envelope, body = unpacked(text)
        seal = body.pop(SEAL, None)
        try:
            said = json.dumps(body, separators=(",", ":"))
        except RecursionError:
            raise ValueError("an event is not nested so deep") from None
        return Sealed(
            **{name: getattr(envelope, name) for name in Envelope.__slots__},
            digest=digest(said),
            seal=seal if isinstance(seal, Mapping) else None,
        )

    def check(self, events: Sequence[Envelope], *, all_signed: bool = False) -> list[Envelope]:
        """The events that a trusted node has said, with ``signed_by``, and the few that none says.

        ``events``: in order, whole batches. ``all_signed``: none that is nobody's or said again,
        and no end for which `check_end` needs the record.

        Raises NotSigned, NodeUntrusted, Forged.
        """
        at, out = self._at, list[Envelope]()
        waiting: list[Envelope] = []
        for one in events:
            if not isinstance(one, Sealed):
                (waiting if waiting else out).append(one)  # the follower's own: what is not there
            elif one.seal is not None:
                waiting.append(one)
                at, proven = self._part(at, waiting, one, one.seal)
                out += proven
                waiting = []
            elif self._is_nobodys(one):
                self._none_left(waiting)
                at = replace(at, seq=one.seq)
                out.append(_plain(one, ""))
            else:
                waiting.append(one)
        self._none_left(waiting)
        if all_signed and not (len(out) == len(events) and all(map(self._is_all, out))):
            raise NotSigned(f"job {self._job_id}: some of its events are not a node's word")
        self._at = at
        return out

    def check_end(
        self,
        end: Envelope,
        node: str | None,
        fence: str | None,
        attempt: str | None,
        proof: str | None,
    ) -> None:
        """See that it is the end of the configuration that was submitted, if that is known.

        ``node`` and the others: as the record has them. Raises NotSigned, NodeUntrusted, Forged.
        """
        if self._spec is None:
            return
        held = Held(
            job_id=self._job_id,
            node=node or "",
            fence=_number(fence),
            attempt=_number(attempt),
            proof=proof or "",
        )
        signer = check_end(held, End.of_event(end.event), self._root, spec=self._spec)
        if (end.signed_by, end.attempt) != (signer, held.attempt):
            raise self._forged(end, f"is not of the attempt whose end node {signer} has signed")

    def _is_all(self, one: Envelope) -> bool:
        """Whether nothing else is needed to believe it."""
        return bool(one.signed_by) and (self._spec is None or not is_end(one.event))

    def _is_nobodys(self, one: Sealed) -> bool:
        """Whether it is of a kind that Redis's scripts say by themselves. Raises NotSigned: an end,
        which must not be anybody's to write."""
        if is_end(one.event):
            raise NotSigned(
                f"job {self._job_id}: its end ({one.type}) is not signed by a node: it was "
                "cancelled or expired in the queue, its node was lost or does not sign events "
                "(trust.sign_events), or somebody else has written it"
            )
        match one.event:
            case Queued():
                return True
            case Retrying(reason=FailureReason.NODE_LOST):
                return True
        return False

    def _none_left(self, waiting: Sequence[Envelope]) -> None:
        if waiting:
            first = waiting[0]
            raise NotSigned(
                f"job {self._job_id}: its event {first.seq} ({first.type}) is not signed: node "
                f"{first.node or '?'} does not sign events (trust.sign_events), or somebody else "
                "has written it"
            )

    def _part(
        self, at: _At, events: Sequence[Envelope], last: Sealed, seal: Mapping[str, Any]
    ) -> tuple[_At, list[Envelope]]:
        """The events that one seal is over, and how far the check is then."""
        digests = self._verified(last, seal)
        first = last.seq - len(digests) + 1
        proven: list[Envelope] = []
        for one in events:
            if not isinstance(one, Sealed):
                proven.append(one)
                continue
            index = one.seq - first
            if index < 0 or one.digest != digests[index] or _place(one) != _place(last):
                raise self._forged(one, f"is not what node {last.node} has signed")
            proven.append(_plain(one, last.node))
        then = self._next(at, last, seal, gap=first > at.seq + 1, overlap=first <= at.seq)
        if (then.fence, then.last) == (at.fence, at.last):
            return then, []  # said again: its answer was lost, and then Redis's data
        return then, proven

    def _verified(self, last: Sealed, seal: Mapping[str, Any]) -> list[bytes]:
        """The digests that a seal is over. Raises NotSigned, NodeUntrusted, Forged."""
        if seal.get("v") != VERSION:
            raise NotSigned(
                f"job {self._job_id}: its events are signed in version {seal.get('v')!r:.40}; this "
                f"reads {VERSION}: upgrade cyxwiz-worker here"
            )
        key_id = str(seal.get("key"))
        shown = seal.get("certificate") or self._shown.get(key_id)
        key = self._root.key_of(last.node, key_id, shown)
        if seal.get("certificate"):
            self._shown[key_id] = shown
        try:
            signature = bytes_of(str(seal.get("signature")))
            good = key.verifies(signature, statement(self._job_id, _place(last), seal))
            digests = bytes_of(str(seal.get("digests"))) if good else b""
        except (BadSignature, ValueError, RecursionError):
            good = False
        if not good or last.job_id != self._job_id:
            raise self._forged(last, f"has a signature that is not node {last.node}'s for it")
        return [digests[i : i + DIGEST_BYTES] for i in range(0, len(digests), DIGEST_BYTES)]

    def _next(
        self, at: _At, last: Sealed, seal: Mapping[str, Any], *, gap: bool, overlap: bool
    ) -> _At:
        """How far the check is after this seal. Raises Forged: it does not belong here.

        ``gap``: events before it are not kept any more, which the follower has said.
        """
        kind = seal.get("kind")
        if kind not in (BATCH, RESTORED):
            raise self._forged(last, f"has a signature of the kind {kind!r:.40}")
        names = ("fence", "batch", "part", "parts")
        numbers = [one for name in names if (one := counted(seal.get(name))) is not None]
        if len(numbers) < len(names):
            raise self._forged(last, "has a signature without the numbers that belong to one")
        fence, batch, part, parts = numbers
        if overlap or fence < at.fence:
            raise self._forged(last, "is of an earlier attempt, or was said before")
        if fence > at.fence:
            at = _At(fence=fence, batch=1)
        mark = (batch, part, str(seal["digests"]))
        if kind == RESTORED:
            # the batch that was under way may have been heard, and comes again
            if not gap and batch not in (at.batch - 1, at.batch - 2):
                raise self._forged(last, "was said before, or events are missing before it")
            again = at.last if batch == at.batch - 2 else mark
            return replace(at, seq=last.seq, batch=batch + 1, part=0, last=again)
        if (batch, part) < (at.batch, at.part):
            raise self._forged(last, "was said before")
        if (batch, part) > (at.batch, at.part) and not gap:
            raise self._forged(last, "follows others that were taken out")
        end = part + 1 >= parts
        return replace(
            at,
            seq=last.seq,
            batch=batch + 1 if end else batch,
            part=0 if end else part + 1,
            last=mark,
        )

    def _forged(self, one: Envelope, what: str) -> Forged:
        return Forged(f"job {self._job_id}: its event {one.seq} ({one.type}) {what}")


def _place(one: Envelope) -> tuple[str, str, int]:
    return one.node, one.slot, one.attempt


def _number(text: str | None) -> int:
    """-1 for what is none, which no node signs."""
    try:
        return int(text or "")
    except ValueError:
        return -1


def _plain(one: Sealed, signed_by: str) -> Envelope:
    fields = {name: getattr(one, name) for name in Envelope.__slots__}
    return Envelope(**{**fields, "signed_by": signed_by})
