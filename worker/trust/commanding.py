"""Who may run a command beside a job: a key whose scope has it, on a node that allows it, and only
beside a job that is trusted here itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.errors import BadSignature, CyxWizError, UnknownKey
from tasks.exec_request import ExecRequest, check_time, signer
from tasks.job import JobConfig
from tasks.trust import Stamp
from worker.trust.keyfile import TrustedKey
from worker.trust.keyring import Keyring


class Denied(CyxWizError):
    """It does not run; the message says why, and what would be right."""


class NotAsked(CyxWizError):
    """Nobody can be told so: whoever waits for an answer of this name may be another one."""


def asker(
    order: Mapping[str, Any], request: ExecRequest, keyring: Keyring
) -> tuple[TrustedKey | None, Stamp]:
    """Whose request it is, whatever may come of it; None: of a key that is not known here.

    Raises NotAsked: it is not that of the key that it names, or its answer is not its own.
    """
    keys = {one.key_id: one for one in keyring.readable()}
    try:
        stamp = Stamp.parse(str(order.get("signature")))
        own = request.of_key(stamp.key_id)
        if own is False:
            raise NotAsked("token: is that of another request")
        if stamp.key_id not in keys and own:
            return None, stamp
        stamp = signer(order, {key_id: one.public for key_id, one in keys.items()})
    except (BadSignature, UnknownKey) as error:
        raise NotAsked(str(error)) from None
    return keys[stamp.key_id], stamp


def commander(
    key: TrustedKey | None,
    stamp: Stamp,
    job: JobConfig,
    keyring: Keyring,
    *,
    allowed: bool,
    now: float,
) -> TrustedKey:
    """``key``, if it may. ``allowed``: ``trust.allow_exec``; ``now``: seconds since the epoch, by
    this node's clock.

    Raises Denied.
    """
    if not allowed:
        raise Denied("the node's operator has not allowed it (trust.allow_exec: true would)")
    if key is None:
        raise Denied(
            f"signature: by the key {stamp.key_id}, which is not known here: trust.keys of the "
            "node must have it"
        )
    try:
        check_time(stamp, now)
    except BadSignature as error:
        raise Denied(str(error)) from None
    if key.expires is not None and now >= key.expires:
        raise Denied(f"the key {key.name} has expired on this node")
    if not key.scope.exec:
        raise Denied(f"the key {key.name} may not: its scope on this node has no `exec: true`")
    if not _trusted(job, keyring):
        raise Denied("the job is untrusted: a command runs beside signed jobs only")
    return key


def _trusted(job: JobConfig, keyring: Keyring) -> bool:
    """Whether it was when it was signed: a long job may outlive its signature."""
    try:
        issued = Stamp.parse(job.signature or "").issued
        return keyring.standing(job, float(issued)).key is not None
    except BadSignature:
        return False
