"""Who may run a command beside a job: a key whose scope has it, on a node that allows it, and only
beside a job that is trusted here itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.errors import BadSignature, CyxWizError, UnknownKey
from tasks.exec_request import signer
from tasks.job import JobConfig
from tasks.trust import Stamp
from worker.trust.keyfile import TrustedKey
from worker.trust.keyring import Keyring


class Denied(CyxWizError):
    """It does not run; the message says why, and what would be right."""


def commander(
    order: Mapping[str, Any], job: JobConfig, keyring: Keyring, *, allowed: bool, now: float
) -> tuple[TrustedKey, Stamp]:
    """Whose signed request this is. ``allowed``: ``trust.allow_exec``; ``now``: seconds since the
    epoch, by this node's clock.

    Raises Denied.
    """
    if not allowed:
        raise Denied("the node's operator has not allowed it (trust.allow_exec: true would)")
    keys = {one.key_id: one for one in keyring.readable()}
    try:
        stamp = signer(order, {key_id: one.public for key_id, one in keys.items()}, now)
    except UnknownKey as error:
        raise Denied(f"{error}: trust.keys of the node must have it") from None
    except BadSignature as error:
        raise Denied(str(error)) from None
    key = keys[stamp.key_id]
    if key.expires is not None and now >= key.expires:
        raise Denied(f"the key {key.name} has expired on this node")
    if not key.scope.exec:
        raise Denied(f"the key {key.name} may not: its scope on this node has no `exec: true`")
    if not _trusted(job, keyring):
        raise Denied("the job is untrusted: a command runs beside signed jobs only")
    return key, stamp


def _trusted(job: JobConfig, keyring: Keyring) -> bool:
    """Whether it was when it was signed: a long job may outlive its signature."""
    try:
        issued = Stamp.parse(job.signature or "").issued
        return keyring.standing(job, float(issued)).key is not None
    except BadSignature:
        return False
