"""Key files, their scopes, and the standing that they give to a job."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.errors import BadSignature, ConfigError
from tasks.job import JobConfig
from tasks.trust import SigningKey, sign
from worker.plan import Limits
from worker.trust.entitlement import lacking
from worker.trust.keyfile import key_file, read_key
from worker.trust.keyring import UNSIGNED, Keyring
from worker.trust.scope import Scope

pytestmark = pytest.mark.unit

KEY, OTHER = SigningKey.generate(), SigningKey.generate()
NOW = 1_800_000_000.0


def write(path: Path, key: SigningKey = KEY, **more: Any) -> Path:
    path.write_text(yaml.safe_dump({"name": path.stem, "public_key": str(key.public), **more}))
    path.chmod(0o644)
    return path


def job(key: SigningKey | None = KEY, **fields: Any) -> JobConfig:
    given = {"command": ["true"], "job_id": "job-1", **fields}
    return JobConfig.parse(given) if key is None else sign(given, key, now=NOW)


# files


def test_the_file_that_is_read_is_the_one_that_is_asked_who_may_write_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one that has its name by then does not answer for it."""
    path, good = write(tmp_path / "alice.pub"), write(tmp_path / "good.pub", OTHER)
    path.chmod(0o666)
    fstat = os.fstat

    def swapped(fd: int) -> os.stat_result:
        good.replace(path)
        return fstat(fd)

    with monkeypatch.context() as patch:
        patch.setattr("worker.trust.keyfile.os.fstat", swapped)
        with pytest.raises(ConfigError, match="may write to it"):
            read_key(path)
    assert read_key(path).key_id == OTHER.public.key_id


def test_the_file_of_keys_new_is_one_and_allows_nothing(tmp_path: Path) -> None:
    path = tmp_path / "alice.pub"
    path.write_text(key_file("alice", KEY.public))
    key = read_key(path)
    assert (key.name, key.key_id, key.expires) == ("alice", KEY.public.key_id, None)
    assert key.scope == Scope()
    assert not key.scope.native


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("name: a\npublic_key: none\n", r":2: public_key: is no public key"),
        ("name: a b\npublic_key: none\n", r":1: name: is not of the right form"),
        ("scope: {nativ: true}\n", r"did you mean native\?"),
        ("scope:\n  max: {memory_mb: -1}\n", r":2: scope.max.memory_mb: must be greater"),
        ("[1]", r":1: sections are needed"),
        ("-----BEGIN PUBLIC KEY-----", r":1: "),
        ("name: a\nexpires: soon\n", r":2: expires: "),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(text: str, wrong: str, tmp_path: Path) -> None:
    path = tmp_path / "a.pub"
    path.write_text(text)
    with pytest.raises(ConfigError, match=wrong):
        read_key(path)


def test_a_file_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pub")
    for mode in (0o664, 0o646):
        path.chmod(mode)
        with pytest.raises(ConfigError, match="may write to it"):
            read_key(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_another_users_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pub")
    os.chown(path, 12345, -1)
    with pytest.raises(ConfigError, match="may write to it"):
        read_key(path)


def test_two_files_of_one_key_are_refused(tmp_path: Path) -> None:
    ring = Keyring([write(tmp_path / "a.pub"), write(tmp_path / "b.pub")])
    with pytest.raises(ConfigError, match=r"has the key of .*a\.pub"):
        ring.check()


# standing


def test_the_default_node_trusts_nobody() -> None:
    ring = Keyring(())
    assert not ring
    standing = ring.standing(job(), NOW)
    assert standing.key is None
    assert not standing.native
    assert ring.standing(job(None), NOW) is UNSIGNED


def test_a_job_stands_with_the_key_that_signed_it(tmp_path: Path) -> None:
    ring = Keyring(
        [write(tmp_path / "a.pub", scope={"native": True}), write(tmp_path / "b.pub", OTHER)]
    )
    mine, theirs = ring.standing(job(), NOW), ring.standing(job(OTHER), NOW)
    assert (mine.key and mine.key.name, theirs.key and theirs.key.name) == ("a", "b")
    assert mine.native
    assert not theirs.native


def test_a_key_that_is_taken_out_counts_no_more_from_the_next_job_on(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pub")
    ring = Keyring([path])
    assert ring.standing(job(), NOW).key
    path.unlink()
    assert ring.standing(job(), NOW).key is None
    write(path, scope={"native": True})
    assert ring.standing(job(), NOW).native


def test_a_key_expires(tmp_path: Path) -> None:
    ring = Keyring([write(tmp_path / "a.pub", expires="2027-01-15T08:00:00Z")])  # = NOW
    assert ring.standing(job(), NOW - 1).key
    with pytest.raises(BadSignature, match="key a has expired"):
        ring.standing(job(), NOW)


def test_an_edited_job_is_not_merely_untrusted(tmp_path: Path) -> None:
    ring = Keyring([write(tmp_path / "a.pub")])
    edited = JobConfig.parse({**job().to_wire(), "command": ["false"]})
    with pytest.raises(BadSignature, match="changed"):
        ring.standing(edited, NOW)


# what it gives


NEEDY = {"secrets": ["hf-token"], "network": "bridge"}


def test_an_unsigned_job_has_no_secrets_and_no_network() -> None:
    found = lacking(job(None, **NEEDY), UNSIGNED)
    assert found is not None
    assert not found.elsewhere
    assert found.message.startswith("secrets and network: only a job that a key of the node")
    assert lacking(job(None), UNSIGNED) is None


def test_a_job_of_an_unknown_key_may_be_trusted_elsewhere() -> None:
    standing = Keyring(()).standing(job(), NOW)
    found = lacking(job(**NEEDY), standing)
    assert found is not None
    assert found.elsewhere
    assert KEY.public.key_id in found.message
    assert lacking(job(), standing) is None


@pytest.mark.parametrize(
    ("scope", "fields", "lacks"),
    [
        ({}, NEEDY, "network: bridge is not in the key's scope; secrets: hf-token not in"),
        ({"network": True, "secrets": ["hf-*"]}, NEEDY, ""),
        ({"network": True, "secrets": ["other"]}, NEEDY, "secrets: hf-token not in"),
        ({"max": {"memory_mb": 100}}, {"memory_mb": 101}, "memory_mb: 101; the key's scope"),
        ({"max": {"memory_mb": 100}}, {"memory_mb": 100}, ""),
        ({"max": {"memory_mb": 100}}, {}, ""),
        ({"max": {"gpus": 1}}, {"gpus": 2, "required_device": "cuda"}, "gpus: 2; the key's"),
        ({"max": {"timeout_seconds": 9}}, {}, "timeout_seconds: is missing; the key's scope"),
        ({"max": {"timeout_seconds": 9}}, {"timeout_seconds": 9.0}, ""),
        ({"max": {"cpu_cores": 1.5}}, {"cpu_cores": 2.0}, "cpu_cores: 2; the key's"),
    ],
)
def test_a_key_gives_what_its_scope_says(
    scope: dict[str, Any], fields: dict[str, Any], lacks: str, tmp_path: Path
) -> None:
    ring = Keyring([write(tmp_path / "a.pub", scope=scope)])
    made = job(**fields)
    found = lacking(made, ring.standing(made, NOW))
    if not lacks:
        assert found is None
        return
    assert found is not None
    assert not found.elsewhere
    assert lacks in found.message


def test_a_job_that_asks_for_nothing_gets_no_more_than_its_key_allows() -> None:
    scope = Scope.model_validate({"max": {"memory_mb": 100, "cpu_cores": 1.5}})
    limits = Limits(memory_mb=16_384, cpu_cores=0, shm_size_mb=64, pids=8)
    assert scope.capped(limits) == Limits(memory_mb=100, cpu_cores=1.5, shm_size_mb=64, pids=8)
    assert Scope().capped(limits) == limits
