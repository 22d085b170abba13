"""Signed jobs through Redis: what `train` sends, and that a signature is used once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import yaml

from tasks.errors import BadSignature, KeyUnusable, LeaseLost
from tasks.events import Retrying
from tasks.job import JobConfig
from tasks.keys import Keys
from tasks.leases import tagged
from tasks.record import Records
from tasks.recorded import Claimed, Lease
from tasks.state import FailureReason, JobState
from tasks.training import train
from tasks.trust import SigningKey, sign
from tests.conftest import Hub
from tests.integration.hub.support import claim, finish, run_out, submit, try_claim
from worker.trust.acl import Role, acl_line
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
    assert vet(job, lease, ring, records.leases, NOW).key
    assert vet(job, lease, ring, records.leases, NOW + 1).key


def test_the_same_signed_text_is_not_run_again_when_its_record_is_gone(
    records: Records, ring: Keyring
) -> None:
    signed = sign({"command": ["true"]}, KEY, now=NOW)
    job, lease = taken(records, signed)
    vet(job, lease, ring, records.leases, NOW)
    finish(records, lease)
    keys = records.keys
    for key in (keys.job(lease.job_id), keys.history(lease.job_id), keys.tail(lease.job_id)):
        records.client.delete(key)  # as their time-to-live would
    again, lease = taken(records, signed)
    with pytest.raises(BadSignature, match=f"was used before, by job {signed.job_id}"):
        vet(again, lease, ring, records.leases, NOW + 60)


def retry(records: Records, lease: Lease) -> JobState:
    """The attempt has failed, and counts."""
    said = [tagged(Retrying(reason=FailureReason.ENGINE_ERROR, message="why"))]
    return records.leases.requeue(
        lease, said, reason=FailureReason.ENGINE_ERROR, message="why", delay_ms=0, counts=True
    )


@pytest.fixture
def mallory(hub: Hub) -> Iterator[redis.Redis]:
    """What another producer's account may do."""
    password = "a-password-of-a-test"
    _, name, *rules = acl_line(Role.PRODUCER, "mallory", password).split()
    hub.client.execute_command("ACL", "SETUSER", name, *rules)
    client = redis.Redis(
        unix_socket_path=str(hub.server.socket),
        username=name,
        password=password,
        decode_responses=True,
    )
    yield client
    client.close()
    hub.client.execute_command("ACL", "DELUSER", name)


def set_back(mallory: redis.Redis, keys: Keys, job_id: str, **fields: str | int) -> None:
    """An ended job's record as if the job still waited, and its message in its queue again."""
    job = keys.job(job_id)
    as_new: dict[str, str | int] = {"state": "queued", "owner": "", "attempt": 0, "cancel": ""}
    mallory.hset(job, mapping={**as_new, **fields})
    mallory.hdel(job, "ended_by", "finished", "ran")
    mallory.persist(job)
    mallory.lpush(f"{keys.prefix}{mallory.hget(job, 'queue')}", str(mallory.hget(job, "message")))


@pytest.mark.parametrize("fields", [{}, {"fence": 0}, {"fence": 1000}, {"nonce": "none"}])
def test_a_signed_job_that_has_ended_is_not_run_again_however_its_record_is_set_back(
    records: Records, ring: Keyring, mallory: redis.Redis, fields: dict[str, str | int]
) -> None:
    job, lease = taken(records, sign({"command": ["true"]}, KEY, now=NOW))
    assert vet(job, lease, ring, records.leases, NOW).key
    finish(records, lease)
    set_back(mallory, records.keys, lease.job_id, **fields)
    again = claim(records, lease.job_id)
    with pytest.raises(BadSignature, match=f"was used before, by job {lease.job_id}"):
        vet(job, again, ring, records.leases, NOW + 60)


@pytest.mark.parametrize("how", ["the reaper", "a claim", "no retry left", "a broken record"])
def test_whoever_ends_a_signed_job_ends_its_signature(
    records: Records, ring: Keyring, mallory: redis.Redis, how: str
) -> None:
    job, lease = taken(records, sign({"command": ["true"], "max_attempts": 1}, KEY, now=NOW))
    vet(job, lease, ring, records.leases, NOW)
    job_id = lease.job_id
    before = mallory.hgetall(records.keys.job(job_id))
    match how:
        case "the reaper":
            run_out(records, job_id)
            assert records.upkeep.reap(0).lost == 1
        case "a claim":
            run_out(records, job_id)
            assert not isinstance(try_claim(records, job_id), Claimed)
        case "no retry left":
            retry(records, lease)
        case _:
            records.upkeep.bury(job_id)
            mallory.hset(records.keys.job(job_id), mapping=before)
    set_back(mallory, records.keys, job_id, fence=1000)
    with pytest.raises(BadSignature, match="was used before"):
        vet(job, claim(records, job_id), ring, records.leases, NOW + 60)


def test_a_running_jobs_record_that_is_set_back_does_not_pass_for_a_retry(
    records: Records, ring: Keyring, mallory: redis.Redis
) -> None:
    job, lease = taken(records, sign({"command": ["true"]}, KEY, now=NOW))
    vet(job, lease, ring, records.leases, NOW)
    for fence in (0, -5):
        set_back(mallory, records.keys, lease.job_id, fence=fence)
        with pytest.raises(BadSignature, match="was used before"):
            vet(job, claim(records, lease.job_id), ring, records.leases, NOW + 60)


def test_a_producer_can_neither_read_nor_free_a_nonce(
    records: Records, ring: Keyring, mallory: redis.Redis
) -> None:
    job, lease = taken(records, sign({"command": ["true"]}, KEY, now=NOW))
    vet(job, lease, ring, records.leases, NOW)
    for key in records.client.keys(records.keys.nonce("*")):
        for command in ("GET", "DEL", "UNLINK", "PERSIST"):
            with pytest.raises(redis.exceptions.NoPermissionError):
                mallory.execute_command(command, key)
        with pytest.raises(redis.exceptions.NoPermissionError):
            mallory.rename(key, records.keys.job("mine"))


def test_a_producer_cancels_a_signed_job_that_waits_for_its_retry(
    records: Records, ring: Keyring, mallory: redis.Redis
) -> None:
    job, lease = taken(records, sign({"command": ["true"]}, KEY, now=NOW))
    vet(job, lease, ring, records.leases, NOW)
    retry(records, lease)
    Records(mallory, records.keys).cancel(lease.job_id, "enough")
    assert records.get(lease.job_id).state is JobState.CANCELLED


def test_a_nonce_of_an_older_version_is_this_submissions_still(
    records: Records, ring: Keyring
) -> None:
    job, lease = taken(records, sign({"command": ["true"]}, KEY, now=NOW))
    stamp = ring.standing(job, NOW).stamp
    assert stamp is not None
    nonce = records.keys.nonce(f"{stamp.key_id}:{stamp.nonce}")
    since = records.client.hget(records.keys.job(lease.job_id), "submitted")
    records.client.set(nonce, f"{lease.job_id}@{since}", px=60_000)
    assert vet(job, lease, ring, records.leases, NOW).key


def test_a_nonce_is_remembered_as_long_as_its_signature_is_good(
    records: Records, ring: Keyring
) -> None:
    job, lease = taken(records, sign({"command": ["true"]}, KEY, lifetime=1000, now=NOW))
    vet(job, lease, ring, records.leases, NOW)
    for key in records.client.keys(records.keys.nonce("*")):
        assert records.client.pttl(key) > 1000 * 1000


def test_only_the_holder_of_the_lease_uses_a_nonce(records: Records, ring: Keyring) -> None:
    job, lease = taken(records, sign({"command": ["true"]}, KEY, now=NOW))
    gone = Lease(job_id=lease.job_id, owner="somebody", fence=lease.fence)
    with pytest.raises(LeaseLost):
        vet(job, gone, ring, records.leases, NOW)
    assert not records.client.keys(records.keys.nonce("*"))


def test_an_unsigned_job_leaves_no_nonce(records: Records, ring: Keyring) -> None:
    job_id = submit(records)
    lease = claim(records, job_id)
    job = JobConfig.parse({"command": ["true"], "job_id": job_id})
    assert vet(job, lease, ring, records.leases, NOW).key is None
    assert not records.client.keys(records.keys.nonce("*"))


def _issued(job: JobConfig) -> float:
    return float((job.signature or "").split(".")[2])
