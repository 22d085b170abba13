"""A command beside a running job, as it is asked for: signed, for one job on one node, once.

It travels on the job's control channel, on which every producer may speak: so a node does what it
says by its signature alone. What comes back are entries of the stream `Keys.exec`::

    {"t": "begun"}
    {"t": "out", "s": "stdout", "d": BASE64}
    {"t": "beat"}                                 it runs, and says nothing
    {"t": "end", "code": "3"}                     128 + the number of the signal that ended it
    {"t": "end", "code": "", "why": "…"}          it was ended, or nobody knows how it ended
    {"t": "refused", "why": "…"}
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from tasks import jsonvalue
from tasks.errors import BadSignature, WrongExec
from tasks.trust import PublicKey, SigningKey, Stamp, opened, seal

EXEC: Final = "exec"
EXEC_END: Final = "exec_end"
"""Whoever asked does not wait any more: needs no signature, since the token names one command."""
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
_TOKEN: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecRequest:
    """What is asked for."""

    token: str
    """Names the answer; nobody can guess it."""
    job_id: str
    node: str
    argv: tuple[str, ...]
    seconds: float
    """After which the command is ended."""

    @classmethod
    def new(cls, job_id: str, node: str, argv: Sequence[str], seconds: float) -> Self:
        """Raises WrongExec."""
        made = cls(
            token=secrets.token_hex(16),
            job_id=job_id,
            node=node,
            argv=tuple(argv),
            seconds=seconds,
        )
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
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise WrongExec(f"the request is of another form: {error!r:.200}") from None
        made.check()
        return made

    def check(self) -> None:
        """Raises WrongExec."""
        if not _TOKEN.fullmatch(self.token):
            raise WrongExec("token: 32 hexadecimal digits are needed")
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

    def signed(self, key: SigningKey, now: float | None = None) -> dict[str, Any]:
        """What is said on the channel. ``now``: seconds since the epoch (default: now)."""
        wire = {**self._wire(), "op": EXEC}
        begin = int(time.time() if now is None else now)
        return {**wire, "signature": seal(_KIND, wire, key, begin, _LIFETIME_S)}

    def _wire(self) -> dict[str, Any]:
        return {
            "token": self.token,
            "job_id": self.job_id,
            "node": self.node,
            "argv": list(self.argv),
            "seconds": self.seconds,
        }


def signer(order: Mapping[str, Any], keys: Mapping[str, PublicKey], now: float) -> Stamp:
    """Whose request it is. Raises BadSignature: nobody's of ``keys``, or it is not good now."""
    stamp = opened(_KIND, order, keys, now)
    if stamp is None:
        raise BadSignature("signature: is not that of this request")
    if now >= stamp.expires:
        raise BadSignature(
            f"signature: has expired ({now - stamp.expires:.0f} s ago by the node's clock)"
        )
    return stamp
