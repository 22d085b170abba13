"""Signed jobs: what a signature covers, and every way in which it can be wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import BadSignature, InvalidJob, KeyUnusable, UnknownKey
from tasks.job import JobConfig
from tasks.publishing import job_of, signed
from tasks.training import train
from tasks.trust import MOST_LIFETIME_S, PublicKey, SigningKey, Stamp, sign, verify

pytestmark = pytest.mark.unit

KEY, OTHER = SigningKey.generate(), SigningKey.generate()
KEYS = {KEY.public.key_id: KEY.public}
NOW = 1_800_000_000.0
JOB: dict[str, Any] = {
    "command": ["true"],
    "job_id": "job-1",
    "sandbox": "none",
    "hyperparameters": {"a": 1},
}


def made(**changes: Any) -> JobConfig:
    return sign({**JOB, **changes}, KEY, now=NOW)


def refusal(job: JobConfig, now: float = NOW) -> str:
    with pytest.raises(BadSignature) as caught:
        verify(job, KEYS, now)
    return str(caught.value)


def test_a_signed_job_is_its_key_s_word() -> None:
    stamp = verify(made(), KEYS, NOW)
    assert (stamp.key_id, stamp.issued) == (KEY.public.key_id, NOW)
    assert verify(JobConfig.parse(made().canonical()), KEYS, NOW + 3600)


def test_a_job_without_an_id_gets_one_that_the_signature_covers() -> None:
    job = sign({"command": ["true"]}, KEY, now=NOW)
    assert job.job_id
    assert verify(job, KEYS, NOW)


@pytest.mark.parametrize(
    "change",
    [
        {"command": ["false"]},
        {"job_id": "job-2"},
        {"sandbox": "required"},
        {"secrets": ["token"]},
        {"network": "bridge"},
        {"hyperparameters": {"a": 1.0}},
        {"max_attempts": 100},
        {"timeout_seconds": 1.0},
    ],
    ids=lambda change: next(iter(change)),
)
def test_no_field_can_be_changed_after_signing(change: dict[str, Any]) -> None:
    edited = JobConfig.parse({**made().to_wire(), **change})
    assert "changed after it was signed" in refusal(edited)


def test_arguments_of_a_script_are_signed() -> None:
    script = {"command": None, "script": "a.py", "code_uri": "file:/x"}
    job = made(**script, args=["--lr", "0.1"])
    assert verify(job, KEYS, NOW)
    for args in ([], ["--lr"], ["0.1", "--lr"], ["--lr", "0.1", ""]):
        edited = JobConfig.parse({**job.to_wire(), "args": args})
        assert "changed after it was signed" in refusal(edited)


def test_no_field_can_be_taken_away_or_changed_to_its_default() -> None:
    wire = made(epochs=3).to_wire()
    for name in set(wire) - {"signature", "command", "job_id"}:
        left = {key: value for key, value in wire.items() if key != name}
        assert "changed after it was signed" in refusal(JobConfig.parse(left)), name


@given(st.data())
def test_no_character_of_the_signature_can_be_changed(data: st.DataObject) -> None:
    text = made().signature or ""
    index = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from("0123456789abcdefXYZ_-.").filter(lambda c: c != text[index]))
    changed = text[:index] + other + text[index + 1 :]
    job = JobConfig.parse({**JOB, "signature": changed})
    with pytest.raises(BadSignature):
        verify(job, KEYS, NOW)


def test_another_keys_signature_is_not_this_ones() -> None:
    theirs = sign(JOB, OTHER, now=NOW)
    with pytest.raises(UnknownKey):
        verify(theirs, KEYS, NOW)
    stamp = Stamp.parse(theirs.signature or "")
    forged = (theirs.signature or "").replace(stamp.key_id, KEY.public.key_id)
    assert "is not that of this job" in refusal(JobConfig.parse({**JOB, "signature": forged}))


def test_a_signature_is_good_from_when_to_when_it_says() -> None:
    job = sign(JOB, KEY, lifetime=60, now=NOW)
    verify(job, KEYS, NOW + 59.9)
    assert "has expired" in refusal(job, NOW + 60)
    assert "begins in the future" in refusal(job, NOW - 301)
    verify(job, KEYS, NOW - 299)  # clocks differ


def test_a_lifetime_has_its_bounds_even_if_the_producer_does_not_keep_them() -> None:
    with pytest.raises(InvalidJob, match="lifetime"):
        sign(JOB, KEY, lifetime=MOST_LIFETIME_S + 1)
    with pytest.raises(InvalidJob, match="lifetime"):
        sign(JOB, KEY, lifetime=float("nan"))


def test_two_signatures_of_one_job_have_two_nonces() -> None:
    one, other = (Stamp.parse(made().signature or "") for _ in range(2))
    assert one.nonce != other.nonce


def test_a_signature_has_one_spelling() -> None:
    text = made().signature or ""
    last = text[-1]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    twin = alphabet[alphabet.index(last) ^ 1]  # its lowest bits are not used
    assert "form" in refusal(JobConfig.parse({**JOB, "signature": text[:-1] + twin}))


@pytest.mark.parametrize("text", ["x", "cyxwiz1.a.b.c.d.e", "cyxwiz2" + "." * 5])
def test_what_is_no_signature_is_refused(text: str) -> None:
    assert "form" in refusal(JobConfig.parse({**JOB, "signature": text}))


def test_an_unsigned_job_is_not_signed() -> None:
    assert "not signed" in refusal(JobConfig.parse(JOB))


# keys


def test_a_key_comes_back_from_its_file_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    KEY.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert SigningKey.load(path).public.key_id == KEY.public.key_id
    with pytest.raises(KeyUnusable, match="File exists"):
        OTHER.save(path)
    path.chmod(0o640)
    with pytest.raises(KeyUnusable, match="chmod 600"):
        SigningKey.load(path)


def test_a_key_of_openssl_is_one_too(tmp_path: Path) -> None:
    path = tmp_path / "o.key"
    subprocess.run(
        ["openssl", "genpkey", "-algorithm", "ed25519", "-out", path], check=True, umask=0o077
    )
    job = sign(JOB, path, now=NOW)
    public = SigningKey.load(path).public
    assert verify(job, {public.key_id: public}, NOW)


@pytest.mark.parametrize("text", ["", "no key", "-----BEGIN PRIVATE KEY-----\nAAAA\n"])
def test_what_is_no_key_is_refused_and_not_quoted(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(KeyUnusable, match=r"is no private key of Ed25519.*cyxwiz keys new"):
        SigningKey.load(path)
    with pytest.raises(KeyUnusable, match="cannot be read"):
        SigningKey.load(tmp_path / "none")


def test_a_public_key_is_written_and_read() -> None:
    assert PublicKey.parse(str(KEY.public)).key_id == KEY.public.key_id
    for wrong in (
        "",
        "ed25519:abc",
        str(KEY.public).replace("ed25519", "rsa"),
        "ed25519:" + "=" * 44,
    ):
        with pytest.raises(KeyUnusable):
            PublicKey.parse(wrong)


def test_a_key_is_shown_nowhere() -> None:
    assert repr(KEY) == f"SigningKey({KEY.public.key_id})"


# at the producer


def test_train_signs_whichever_way_it_is_called(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    KEY.save(path)
    for key in (KEY, path, str(path)):
        for made_ in (train.s(JOB, key=key), train.si(JOB, key=key)):
            assert "key" not in json.dumps(made_["kwargs"])
            job = JobConfig.parse(made_["args"][0])
            assert verify(job, KEYS, Stamp.parse(job.signature or "").issued)
            assert made_.id == "job-1"


def test_a_signed_job_keeps_its_id_through_the_signature_of_celery() -> None:
    made_ = train.s({"command": ["true"]}, key=KEY)
    job = JobConfig.parse(made_["args"][0])
    assert made_.id == job.job_id


def test_what_would_change_a_signed_job_is_refused_at_the_producer() -> None:
    job = made()
    with pytest.raises(InvalidJob, match=r"task's id 'other' differ"):
        job_of((job,), None, "other")
    unnamed = JobConfig.parse({**job.to_wire(), "job_id": None})
    with pytest.raises(InvalidJob, match="sign it again"):
        job_of((unnamed,), None, "other")
    with pytest.raises(InvalidJob, match="expires: the job is signed"):
        train.apply_async((job,), expires=60)


def test_the_tasks_id_is_signed() -> None:
    args, kwargs = signed(({"command": ["true"]},), {"key": KEY}, "given", None)
    assert kwargs == {}
    assert JobConfig.parse(args[0]).job_id == "given"
    assert verify(JobConfig.parse(args[0]), KEYS, Stamp.parse(args[0]["signature"]).issued)


def test_who_does_not_sign_needs_no_cryptography() -> None:
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from tasks import train, JobConfig\n"
        "train.s({'command': ['true']})\n"
        "from tasks.errors import KeyUnusable\n"
        "try: train.s({'command': ['true']}, key='a.key')\n"
        "except KeyUnusable as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'cyxwiz-worker[sign]'" in done.stdout
