"""Signed jobs through Redis: what `train` sends, and that a signature is used once."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tasks.errors import BadSignature, KeyUnusable, LeaseLost
from tasks.job import JobConfig
from tasks.record import Claimed, Lease, Records
from tasks.training import train
from tasks.trust import SigningKey, sign
from tests.conftest import Hub
from tests.integration.hub.support import claim, finish, submit, try_claim
from worker.trust.keyring import Keyring
from worker.trust.vetting import vet

pytestmark = pytest.mark.integration

KEY = SigningKey.generate()
NOW = 1_800_000_000.0


@pytest.fixture
def records(hub: Hub) -> Records:
    return Records(hub.client, hub.settings.keys)


@pytest.fixture
def ring(tmp_path: Path) -> Keyring:
    path = tmp_path / "alice.pub"
    path.write_text(yaml.safe_dump({"name": "alice", "public_key": str(KEY.public)}))
    path.chmod(0o644)
    return Keyring([path])


def taken(records: Records, job: JobConfig) -> tuple[JobConfig, Lease]:
    """The job as a node has it from its claim."""
    submit(records, **job.to_wire())
    found = try_claim(records, job.job_id or "")
    assert isinstance(found, Claimed), found
    return JobConfig.parse(found.spec), found.lease


def test_a_job_of_delay_is_signed_in_its_record_and_the_key_stays_at_home(
    hub: Hub, records: Records, ring: Keyring
) -> None:
    sent = train.delay({"command": ["true"]}, key=KEY)
    found = JobConfig.parse(records.get(sent.id).spec)
    # what the producer compares with what its node will have signed
    assert sent.submitted.with_job_id(sent.id).digest() == records.get(sent.id).spec_digest
    assert ring.standing(found, 4e9 if found.signature is None else _issued(found)).key
    everything = b"".join(
        hub.server.client(decode=False).dump(key) or b"" for key in hub.client.keys("*")
    )
    assert b"SigningKey" not in everything
    assert b"PRIVATE KEY" not in everything


def test_a_key_that_cannot_be_used_publishes_nothing(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(KeyUnusable, match="cannot be read"):
        train.delay({"command": ["true"]}, key=tmp_path / "none.key")
    assert hub.client.keys("*job:*") == []


def test_a_retry_uses_its_signature_again(records: Records, ring: Keyring) -> None:
    job, lease = taken(records, sign({"command": ["true"]}, KEY, now=NOW))
    assert vet(job, lease, ring, records, NOW).key
    assert vet(job, lease, ring, records, NOW + 1).key


def test_the_same_signed_text_is_not_run_again_when_its_record_is_gone(
    records: Records, ring: Keyring
) -> None:
    signed = sign({"command": ["true"]}, KEY, now=NOW)
    job, lease = taken(records, signed)
    vet(job, lease, ring, records, NOW)
    finish(records, lease)
    keys = records.keys
    for key in (keys.job(lease.job_id), keys.history(lease.job_id), keys.tail(lease.job_id)):
        records.client.delete(key)  # as their time-to-live would
    again, lease = taken(records, signed)
    with pytest.raises(BadSignature, match=f"was used before, by job {signed.job_id}"):
        vet(again, lease, ring, records, NOW + 60)


def test_a_nonce_is_remembered_as_long_as_its_signature_is_good(
    records: Records, ring: Keyring
) -> None:
    job, lease = taken(records, sign({"command": ["true"]}, KEY, lifetime=1000, now=NOW))
    vet(job, lease, ring, records, NOW)
    (key,) = records.client.keys(records.keys.nonce("*"))
    assert records.client.pttl(key) > 1000 * 1000


def test_only_the_holder_of_the_lease_uses_a_nonce(records: Records, ring: Keyring) -> None:
    job, lease = taken(records, sign({"command": ["true"]}, KEY, now=NOW))
    gone = Lease(job_id=lease.job_id, owner="somebody", fence=lease.fence)
    with pytest.raises(LeaseLost):
        vet(job, gone, ring, records, NOW)
    assert not records.client.keys(records.keys.nonce("*"))


def test_an_unsigned_job_leaves_no_nonce(records: Records, ring: Keyring) -> None:
    job_id = submit(records)
    lease = claim(records, job_id)
    job = JobConfig.parse({"command": ["true"], "job_id": job_id})
    assert vet(job, lease, ring, records, NOW).key is None
    assert not records.client.keys(records.keys.nonce("*"))


def _issued(job: JobConfig) -> float:
    return float((job.signature or "").split(".")[2])
