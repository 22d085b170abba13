"""The signature of a claimed job: what the keyring says of it, and whether it was used before."""

from __future__ import annotations

from typing import Final

from tasks.errors import BadSignature
from tasks.job import JobConfig
from tasks.leases import Leases
from tasks.recorded import Lease
from worker.trust.keyring import Keyring, Standing

_MARGIN_S: Final = 3_600.0
"""A nonce is remembered for longer than its signature is good, whatever the clocks of nodes say."""


def vet(job: JobConfig, lease: Lease, keyring: Keyring, leases: Leases, now: float) -> Standing:
    """What the job is here. ``now``: seconds since the epoch, by this node's clock.

    The nonce of a good signature is used for this submission of this job, and for its retries: the
    same signed text submitted again when the record is gone is a replay.

    Raises BadSignature, LeaseLost, redis.RedisError.
    """
    standing = keyring.standing(job, now)
    stamp = standing.stamp
    if stamp is None:
        return standing
    left_s = max(0.0, stamp.expires - now) + _MARGIN_S
    whose = leases.spend(lease, f"{stamp.key_id}:{stamp.nonce}", round(left_s * 1000))
    if whose:
        raise BadSignature(
            f"signature: was used before, by job {whose.partition('@')[0]}: sign the job again"
        )
    return standing
