"""Signed jobs on a whole node that trusts one key and nobody else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tasks.errors import JobRejected
from tasks.job import JobConfig
from tasks.state import JobState
from tasks.trust import SigningKey, sign
from tests.integration.hub.support import history
from tests.support.cluster import Cluster
from tests.support.waiting import wait_until
from worker.keeper import secret_files
from worker.node.audit import check

pytestmark = pytest.mark.e2e


def test_a_node_runs_what_its_key_signed_and_nothing_else(
    start_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    alice, mallory = SigningKey.generate(), SigningKey.generate()
    trusted = tmp_path / "alice.pub"
    file = {"name": "alice", "public_key": str(alice.public), "scope": {"native": True}}
    trusted.write_text(yaml.safe_dump(file))
    trusted.chmod(0o644)
    cluster = start_cluster(
        extra={"execution": {"allow_untrusted_native": False}, "trust": {"keys": [str(trusted)]}}
    )
    job = {"command": ["true"], "sandbox": "none"}

    signed = sign(job, alice)
    done = cluster.submit(signed.to_wire())
    result = done.get(timeout=30)
    assert result["mode"] == "native"
    assert result["why"].startswith("signed by alice")

    def refused(found: JobConfig) -> str:
        # by another producer: Celery keeps a result that it hears of twice for whoever asks next
        other = Cluster.of(cluster.node)
        sent = other.submit(found.to_wire())
        with pytest.raises(JobRejected) as caught:
            sent.get(timeout=30)
        other.close()
        assert cluster.record(sent).attempt == 1
        assert not cluster.logged(sent)
        return str(caught.value)

    theirs = JobConfig.parse({**sign(job, alice).to_wire(), "command": ["sh", "-c", "echo no"]})
    assert refused(theirs).startswith("untrusted: signature: is not that of this job")
    late = sign(job, alice, lifetime=1, now=1_700_000_000)
    assert refused(late).startswith("untrusted: signature: has expired")
    forged = sign(job, mallory)
    forged = JobConfig.parse(
        {
            **forged.to_wire(),
            "signature": (forged.signature or "").replace(
                mallory.public.key_id, alice.public.key_id
            ),
        }
    )
    assert refused(forged).startswith("untrusted: signature: is not that of this job")

    # the record goes, as it would after its time-to-live; the signed text comes again
    client, keys = cluster.app.records.client, cluster.settings.keys
    for key in (keys.job(done.id), keys.history(done.id), keys.tail(done.id)):
        client.delete(key)
    client.delete(f"{keys.prefix}celery-task-meta-{done.id}")
    assert refused(signed).startswith(f"untrusted: signature: was used before, by job {done.id}")

    lines = [json.loads(line) for line in cluster.node.paths.audit.read_text().splitlines()]
    assert check(cluster.node.paths.audit) == len(lines)
    (started,) = [line for line in lines if line["event"] == "started"]
    assert (started["job"], started["key"]["name"]) == (done.id, "alice")
    assert (started["mode"], started["spec"]) == ("native", signed.digest())
    ends = [line["state"] for line in lines if line["event"] == "ended"]
    assert ends == ["succeeded", *["rejected"] * 4]

    # somebody whom this node does not know: another node might, so it is not rejected here
    stranger = cluster.submit(sign(job, mallory).to_wire())
    cluster.wait_state(stranger, JobState.QUEUED)
    # nobody reads the queue of unsigned jobs
    unsigned = cluster.submit({"command": ["true"]})
    cluster.wait_state(unsigned, JobState.QUEUED)


def test_a_native_job_gets_no_secret_that_would_lie_on_a_disk(
    start_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    """It is not started, and nothing of the secret is written."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if secret_files.file_system(disk) == "tmpfs":
        pytest.skip("the temporary files of this host are in memory")
    alice = SigningKey.generate()
    trusted, secrets = tmp_path / "alice.pub", tmp_path / "secrets.yaml"
    scope = {"native": True, "secrets": ["hf-*"]}
    trusted.write_text(
        yaml.safe_dump({"name": "alice", "public_key": str(alice.public), "scope": scope})
    )
    trusted.chmod(0o644)
    secrets.write_text("hf-token: a-secret-of-a-test\n")
    secrets.chmod(0o600)
    trust = {"keys": [str(trusted)], "secrets": str(secrets), "secrets_dir": str(disk)}
    cluster = start_cluster(extra={"trust": trust})
    job = {"command": ["sh", "-c", "echo ran"], "sandbox": "none", "secrets": ["hf-token"]}
    sent = cluster.submit(sign(job, alice).to_wire())

    def handed_back() -> bool:
        return "secrets would lie on a disk" in cluster.record(sent).message

    wait_until(handed_back, timeout=30, what="it is handed back")
    told = [one.type for one in history(cluster.app.records, sent.id)]
    assert "started" not in told
    kept = [path for path in disk.rglob("*") if path.is_file()]
    assert kept == []
    cluster.wait_clean()
