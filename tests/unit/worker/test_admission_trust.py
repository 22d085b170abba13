"""What a job may have on a node, by who signed it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.job import JobConfig
from tasks.state import FailureReason
from tasks.trust import SigningKey, sign
from worker.admission import Admitted, HandBack, Refused, admit
from worker.config import NodeConfig
from worker.engines import engine_state
from worker.limits import HostSize
from worker.sandbox.engine_report import EngineFacts, EngineReport
from worker.trust.keyring import Keyring

pytestmark = pytest.mark.unit

ALICE, STRANGER = SigningKey.generate(), SigningKey.generate()
NOW = 1_800_000_000.0
HOST = HostSize(memory_mb=65_536, cpu_cores=8)
ENGINE = EngineReport(facts=EngineFacts(name="docker", version="20.10"), available=True)
NO_ENGINE = EngineReport(facts=EngineFacts(name="docker", version=""), reason="no socket")


class Node:
    """With alice's key, of the scope given."""

    def __init__(self, tmp_path: Path, **scope: Any) -> None:
        path = tmp_path / "alice.pub"
        path.write_text(
            yaml.safe_dump({"name": "alice", "public_key": str(ALICE.public), "scope": scope})
        )
        path.chmod(0o644)
        self.ring = Keyring([path])

    def decide(
        self,
        key: SigningKey | None,
        *,
        engine: EngineReport = ENGINE,
        mode: str = "auto",
        again: str = "",
        has: Iterable[str] = (),
        **fields: Any,
    ) -> Admitted | HandBack | Refused:
        given = {"command": ["true"], "job_id": "job-1", **fields}
        job = JobConfig.parse(given) if key is None else sign(given, key, now=NOW)
        config = NodeConfig.model_validate({"execution": {"mode": mode}})
        standing = self.ring.standing(job, NOW)
        state = engine_state(config, [engine])
        return admit(job, config, HOST, state, standing, last_reason=again, secrets=frozenset(has))


def test_only_a_key_whose_scope_has_native_frees_a_job_of_its_container(tmp_path: Path) -> None:
    node = Node(tmp_path, native=True)
    admitted = node.decide(ALICE, sandbox="none")
    assert isinstance(admitted, Admitted)
    assert admitted.mode == "native"
    assert admitted.why.startswith("signed by alice, whose scope has native runs")
    for key, sandbox in ((None, "none"), (STRANGER, "none"), (ALICE, "required")):
        admitted = node.decide(key, sandbox=sandbox)
        assert isinstance(admitted, Admitted)
        assert admitted.mode == "docker"
    contained = Node(tmp_path).decide(ALICE, sandbox="none")
    assert isinstance(contained, Admitted)
    assert contained.mode == "docker"


def test_without_an_engine_a_trusted_job_runs_natively_if_it_is_content_with_that(
    tmp_path: Path,
) -> None:
    node = Node(tmp_path, native=True)
    for mode in ("auto", "native"):
        admitted = node.decide(ALICE, engine=NO_ENGINE, mode=mode, sandbox="preferred")
        assert isinstance(admitted, Admitted)
        assert admitted.mode == "native"
        assert bool(admitted.warning) == (mode == "auto")
    required = node.decide(ALICE, engine=NO_ENGINE, mode="native", sandbox="required")
    assert isinstance(required, Refused)
    assert required.reason is FailureReason.SANDBOX_UNAVAILABLE


def test_why_a_signed_job_has_no_native_run_is_said(tmp_path: Path) -> None:
    refused = Node(tmp_path).decide(ALICE, engine=NO_ENGINE, mode="native", sandbox="none")
    assert isinstance(refused, Refused)
    assert "signed by alice, and native is not in the key's scope" in refused.message


def test_a_strangers_job_goes_to_a_node_that_may_know_them_and_is_rejected_when_none_does(
    tmp_path: Path,
) -> None:
    node = Node(tmp_path)
    for fields in ({"secrets": ["hf"]}, {"network": "bridge"}):
        first = node.decide(STRANGER, **fields)
        assert isinstance(first, HandBack)
        assert first.reason is FailureReason.UNTRUSTED
        assert STRANGER.public.key_id in first.message
        assert isinstance(node.decide(STRANGER, again="untrusted", **fields), Refused)
    native = node.decide(STRANGER, engine=NO_ENGINE, mode="native", sandbox="none")
    assert isinstance(native, HandBack)


@pytest.mark.parametrize("fields", [{"secrets": ["hf"]}, {"network": "bridge"}], ids=str)
def test_unsigned_jobs_and_narrow_scopes_are_refused_at_once(
    fields: dict[str, Any], tmp_path: Path
) -> None:
    for key in (None, ALICE):
        refused = Node(tmp_path).decide(key, **fields)
        assert isinstance(refused, Refused)
        assert refused.reason is FailureReason.UNTRUSTED


def test_podman_gives_no_network_and_no_gvisor_whatever_the_key_allows(tmp_path: Path) -> None:
    node = Node(tmp_path, network=True)
    podman = EngineReport(facts=EngineFacts(name="podman", version="4.3.1"), available=True)
    there = {"engine": podman, "mode": "podman"}
    first = node.decide(ALICE, network="bridge", **there)
    assert isinstance(first, HandBack)
    assert "this node has none for jobs (with Docker only, docker.network)" in first.message
    assert isinstance(node.decide(ALICE, network="bridge", again="untrusted", **there), Refused)
    refused = node.decide(ALICE, sandbox="gvisor", **there)
    assert isinstance(refused, Refused)
    assert refused.reason is FailureReason.SANDBOX_UNAVAILABLE
    plain = node.decide(ALICE, **there)
    assert isinstance(plain, Admitted)
    assert plain.mode == "podman"


def test_a_secret_that_the_node_has_not_is_for_another_node_to_give(tmp_path: Path) -> None:
    node = Node(tmp_path, secrets=["hf-*"])
    job = {"secrets": ["hf-a", "hf-b"]}
    first = node.decide(ALICE, has={"hf-a"}, **job)
    assert isinstance(first, HandBack)
    assert first.message == "secrets: this node has none of the name hf-b"
    assert isinstance(node.decide(ALICE, has={"hf-a"}, again="untrusted", **job), Refused)
    assert isinstance(node.decide(ALICE, has={"hf-a", "hf-b"}, **job), Admitted)


def test_a_key_caps_what_its_jobs_get_by_default_too(tmp_path: Path) -> None:
    admitted = Node(tmp_path, max={"memory_mb": 512}).decide(ALICE)
    assert isinstance(admitted, Admitted)
    assert admitted.limits.memory_mb == 512
    refused = Node(tmp_path, max={"memory_mb": 512}).decide(ALICE, memory_mb=1024)
    assert isinstance(refused, Refused)
