"""A command beside a running job, as it is asked for: signed, for one job on one node, once.

It travels on the job's control channel, on which every producer may speak: so a node does what it
says by its signature alone. What comes back are entries of the stream `Keys.exec`::

    {"t": "begun"}
    {"t": "out", "s": "stdout", "d": BASE64}
    {"t": "beat"}                                 it runs, and says nothing
    {"t": "end", "code": "3"}                     128 + the number of the signal that ended it
    {"t": "end", "code": "", "why": "…"}          it was ended, or nobody knows how it ended
    {"t": "refused", "why": "…"}

The channel is heard by every producer, so nothing on it may be of use to another one. The stream is
named by a token that is made of the request: no other request has it. To end the command takes a
secret of which the request shows the SHA-256. An asker of a version before that has neither; see
`ExecRequest.of_key`.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

from tasks import jsonvalue
from tasks.errors import BadSignature, WrongExec
from tasks.trust import PublicKey, SigningKey, Stamp, opened, seal

EXEC: Final = "exec"
EXEC_END: Final = "exec_end"
"""Whoever asked does not wait any more: needs no signature, since it tells the secret."""
SECONDS: Final = 60.0
MOST_SECONDS: Final = 3600.0
MOST_OUTPUT: Final = 1 << 20
"""Bytes of both streams together, after which a command is ended."""
MOST_ARGV: Final = 32 * 1024
"""Characters of a command as JSON."""
BEAT_S: Final = 2.0
"""A command that says nothing is known to run by a beat this often."""
STREAM_TTL_S: Final = 120

_KIND: Final = b"cyxwiz exec signature 1\n"
_LIFETIME_S: Final = 300
_SKEW_S: Final = 300
"""How much an asker's clock may be ahead of a node's."""
_TOKEN: Final = re.compile(r"[0-9a-f]{32}")
_ENDS: Final = re.compile(r"(?:[0-9a-f]{64})?")
_MADE: Final = "c1a5"
"""A token that is made of its request begins so; one of an earlier version by chance alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecRequest:
    """What is asked for."""

    token: str
    """Names the answer."""
    job_id: str
    node: str
    argv: tuple[str, ...]
    seconds: float
    """After which the command is ended."""
    ends: str = ""
    """The SHA-256 of the secret that ends it; '': of an asker of an earlier version."""
    secret: str = field(default="", repr=False)
    """The asker's own."""

    @classmethod
    def new(
        cls, job_id: str, node: str, argv: Sequence[str], seconds: float, key: SigningKey
    ) -> Self:
        """``key``: by which it will be signed. Raises WrongExec."""
        secret = secrets.token_hex(16)
        made = cls(
            token="",
            job_id=job_id,
            node=node,
            argv=tuple(argv),
            seconds=float(seconds),
            ends=_sha256(secret),
            secret=secret,
        )
        made = replace(made, token=made._token(key.public.key_id))
        made.check()
        return made

    @classmethod
    def parse(cls, order: Mapping[str, Any]) -> Self:
        """From what came over the channel. Raises WrongExec."""
        try:
            argv = order["argv"]
            if not isinstance(argv, list) or not all(isinstance(one, str) for one in argv):
                raise WrongExec("argv: a list of texts is needed")
            made = cls(
                token=str(order["token"]),
                job_id=str(order["job_id"]),
                node=str(order["node"]),
                argv=tuple(argv),
                seconds=float(order["seconds"]),
                ends=str(order.get("ends") or ""),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise WrongExec(f"the request is of another form: {error!r:.200}") from None
        made.check()
        return made

    def check(self) -> None:
        """Raises WrongExec."""
        if not _TOKEN.fullmatch(self.token):
            raise WrongExec("token: 32 hexadecimal digits are needed")
        if not _ENDS.fullmatch(self.ends):
            raise WrongExec("ends: 64 hexadecimal digits are needed")
        if not self.argv or not self.argv[0]:
            raise WrongExec("which command? It comes after --, such as: cyxwiz exec ID -- ps")
        if any("\0" in one for one in self.argv):
            raise WrongExec("a command holds no NUL")
        if any(jsonvalue.faults(list(self.argv))):
            raise WrongExec("a command is valid Unicode")
        if len(jsonvalue.canonical(list(self.argv))) > MOST_ARGV:
            raise WrongExec(f"a command has at most {MOST_ARGV} characters")
        if not 0 < self.seconds <= MOST_SECONDS:
            raise WrongExec(f"seconds: {self.seconds:g}; more than 0 and at most {MOST_SECONDS:g}")

    def of_key(self, key_id: str) -> bool | None:
        """Whether the token is made of this request and of the key that it names, so that an
        answer under it reaches nobody else. None: of an earlier version, and so of anybody.
        """
        if not self.ends and not self.token.startswith(_MADE):
            return None
        return bool(self.ends) and hmac.compare_digest(self.token, self._token(key_id))

    def ending(self) -> dict[str, str]:
        """What the asker says on the channel to end it."""
        return {"op": EXEC_END, "token": self.token, "secret": self.secret}

    def ended_by(self, order: Mapping[str, Any]) -> bool:
        """Whether this is what its asker says to end it."""
        told = _sha256(str(order.get("secret")))
        return order.get("token") == self.token and hmac.compare_digest(told, self.ends)

    def signed(self, key: SigningKey, now: float | None = None) -> dict[str, Any]:
        """What is said on the channel. ``now``: seconds since the epoch (default: now)."""
        wire = {**self._wire(), "op": EXEC}
        begin = int(time.time() if now is None else now)
        return {**wire, "signature": seal(_KIND, wire, key, begin, _LIFETIME_S)}

    def _wire(self) -> dict[str, Any]:
        said = {
            "token": self.token,
            "job_id": self.job_id,
            "node": self.node,
            "argv": list(self.argv),
            "seconds": self.seconds,
        }
        return {**said, "ends": self.ends} if self.ends else said

    def _token(self, key_id: str) -> str:
        made_of = {**self._wire(), "token": "", "key": key_id}
        return (_MADE + _sha256(jsonvalue.canonical(made_of)))[:32]


def signer(order: Mapping[str, Any], keys: Mapping[str, PublicKey]) -> Stamp:
    """Whose request it is, be it good now or not: see `check_time`.

    Raises UnknownKey; BadSignature: it is not that of this request.
    """
    stamp = opened(_KIND, order, keys, math.inf)
    if stamp is None:
        raise BadSignature("signature: is not that of this request")
    return stamp


def check_time(stamp: Stamp, now: float) -> None:
    """``now``: seconds since the epoch. Raises BadSignature: it is not good now."""
    if now >= stamp.expires:
        raise BadSignature(
            f"signature: has expired ({now - stamp.expires:.0f} s ago by the node's clock)"
        )
    if stamp.issued > now + _SKEW_S or stamp.expires - stamp.issued > _LIFETIME_S:
        raise BadSignature(
            f"signature: begins in the future, or is good for more than {_LIFETIME_S} s: look at "
            "the clocks of both"
        )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
