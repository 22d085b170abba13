"""Enrolments: an operator's word that a key is a node's, signed with the operator's own key.

A certificate is a JSON object. It may come by any way, Redis included: what it says counts by its
signature alone, and only for whoever has the operator's public key in a `tasks.roots.TrustRoot`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from tasks import jsonvalue
from tasks.errors import BadSignature, KeyUnusable, NodeUntrusted
from tasks.routing import direct_queue
from tasks.trust import MOST_LIFETIME_S, PublicKey, SigningKey, base64_of, bytes_of

VERSION: Final = 1
LIFETIME_S: Final = 366 * 24 * 3600.0
"""How long an enrolment is good by itself."""
SKEW_S: Final = 60.0
"""How far the operator's clock may be ahead of that of whoever looks at an enrolment."""
_DAY_S: Final = 24 * 3600.0
SOON_S: Final = 30 * _DAY_S
"""So long before its end a node begins to say that an enrolment ends."""
_KIND: Final = b"cyxwiz enrolment of a node 1\n"
_KEY_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class Enrolment:
    """What a certificate says. True only once it is `verified`."""

    node: str
    public: PublicKey
    not_before: int
    """Seconds since the epoch, by the operator's clock."""
    not_after: int
    by: str
    """The id of the operator's key."""
    signature: bytes

    @classmethod
    def parse(cls, value: object) -> Enrolment:
        """Raises NodeUntrusted: it is no certificate, or one of another version."""
        try:
            if not isinstance(value, Mapping):
                raise ValueError("no JSON object")
            if value.get("v") != VERSION:
                raise ValueError(f"of version {value.get('v')!r:.40}; this reads {VERSION}")
            found = cls(
                node=_named(_text(value["node"])),
                public=PublicKey.parse(_text(value["public_key"])),
                not_before=_seconds(value["not_before"]),
                not_after=_seconds(value["not_after"]),
                by=_text(value["by"], _KEY_ID),
                signature=bytes_of(_text(value["signature"])),
            )
        except KeyError as error:
            raise NodeUntrusted(f"enrolment: without {error}") from None
        except (ValueError, KeyUnusable, BadSignature) as error:
            raise NodeUntrusted(f"enrolment: {error}") from None
        return found

    def to_json(self) -> dict[str, Any]:
        """The certificate."""
        return {**self._said(), "signature": base64_of(self.signature)}

    def verified(self, operators: Mapping[str, PublicKey], now: float) -> PublicKey:
        """The node's key. ``operators``: by key id; ``now``: seconds since the epoch.

        Raises NodeUntrusted.
        """
        operator = operators.get(self.by)
        if operator is None:
            raise NodeUntrusted(
                f"node {self.node}: is enrolled by the key {self.by}, which is no operator's here"
            )
        if not operator.verifies(self.signature, self.text()):
            raise NodeUntrusted(
                f"node {self.node}: its enrolment was changed after the operator signed it"
            )
        if now < self.not_before - SKEW_S:
            raise NodeUntrusted(
                f"node {self.node}: its enrolment is not good now: by the clock here it begins in "
                f"{self.not_before - now:.0f} s; set the clock of this host, or the operator's"
            )
        if now > self.not_after:
            raise NodeUntrusted(
                f"node {self.node}: its enrolment is not good now: it ran out; enrol it again"
            )
        return self.public

    def ending(self, now: float) -> str:
        """What is to be said of its end; '' while there is time. ``now``: as of `verified`."""
        left_s = self.not_after - now
        if left_s > SOON_S:
            return ""
        days = abs(left_s) / _DAY_S
        when = f"ran out {days:.1f} days ago" if left_s < 0 else f"runs out in {days:.1f} days"
        return f"the enrolment of node {self.node} {when}"

    def _said(self) -> dict[str, Any]:
        return {
            "v": VERSION,
            "node": self.node,
            "public_key": str(self.public),
            "not_before": self.not_before,
            "not_after": self.not_after,
            "by": self.by,
        }

    def text(self) -> bytes:
        """What the operator signs."""
        return _KIND + jsonvalue.canonical(self._said()).encode()


def enrol(
    node: str, public: PublicKey, key: SigningKey, *, now: float, lifetime: float = LIFETIME_S
) -> Enrolment:
    """``key``'s word that ``public`` is the key of ``node``, from ``now`` on.

    ``now``: seconds since the epoch; ``lifetime``: seconds from then. Raises KeyUnusable.
    """
    try:
        _named(node)
    except ValueError as error:
        raise KeyUnusable(str(error)) from None
    if not 60 <= lifetime <= 10 * MOST_LIFETIME_S:
        raise KeyUnusable(f"lifetime: {lifetime:g} s; an enrolment is good for 60 s to 10 years")
    draft = Enrolment(
        node=node,
        public=public,
        not_before=int(now),
        not_after=int(now + lifetime),
        by=key.public.key_id,
        signature=b"",
    )
    return replace(draft, signature=key.sign(draft.text()))


def _text(value: object, form: re.Pattern[str] | None = None) -> str:
    if not isinstance(value, str) or (form is not None and not form.fullmatch(value)):
        raise ValueError(f"{value!r:.80} is not of the form that enrolling gives")
    return value


def _named(node: str) -> str:
    direct_queue(node)  # raises ValueError for what can be no node's name
    return node


def _seconds(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 10**12:
        raise ValueError(f"{value!r:.80} is no time in seconds since the epoch")
    return value
