"""Who may run a command beside a job, and what is refused with which reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.errors import WrongExec
from tasks.exec_request import MOST_ARGV, ExecRequest
from tasks.job import JobConfig
from tasks.trust import SigningKey, sign
from worker.trust.commanding import Denied, commander
from worker.trust.keyring import Keyring

pytestmark = pytest.mark.unit

NOW = 1_800_000_000.0
ALICE, OPS, MALLORY = (SigningKey.generate() for _ in range(3))
JOB = {"command": ["true"], "job_id": "job-1", "sandbox": "none"}


@pytest.fixture
def ring(tmp_path: Path) -> Keyring:
    """alice signs jobs, ops runs commands; a third is known to nobody."""

    def file(name: str, key: SigningKey, **more: Any) -> Path:
        path = tmp_path / f"{name}.pub"
        path.write_text(yaml.safe_dump({"name": name, "public_key": str(key.public), **more}))
        path.chmod(0o644)
        return path

    return Keyring(
        (
            file("alice", ALICE, scope={"native": True}),
            file("ops", OPS, scope={"exec": True}, expires="2027-03-01T00:00:00Z"),
        )
    )


def order(key: SigningKey = OPS, at: float = NOW, **changed: Any) -> dict[str, Any]:
    request = ExecRequest.new("job-1", "node-a", ["ps", "-ef"], 60)
    return {**request.signed(key, at), **changed}


def signed() -> JobConfig:
    return sign(JOB, ALICE, now=NOW - 5)


def test_a_key_with_exec_may_beside_a_trusted_job(ring: Keyring) -> None:
    key, _ = commander(order(), signed(), ring, allowed=True, now=NOW)
    assert key.name == "ops"


def test_a_job_that_outlives_its_signature_stays_trusted(ring: Keyring) -> None:
    job = sign(JOB, ALICE, now=NOW - 3600, lifetime=60)
    assert commander(order(), job, ring, allowed=True, now=NOW)[0].name == "ops"


@pytest.mark.parametrize(
    ("asked", "job", "how", "why"),
    [
        (order, signed, {"allowed": False}, "trust.allow_exec: true would"),
        (lambda: order(signature=None), signed, {}, "not of the form"),
        (lambda: order(MALLORY), signed, {}, "not known here: trust.keys"),
        (lambda: order(ALICE), signed, {}, "the key alice may not"),
        (lambda: order(argv=["rm", "-r", "/"]), signed, {}, "not that of this request"),
        (lambda: order(node="node-b"), signed, {}, "not that of this request"),
        (lambda: order(seconds=3000.0), signed, {}, "not that of this request"),
        (lambda: order(signature=signed().signature), signed, {}, "not that of this request"),
        (lambda: order(at=NOW - 400), signed, {}, "has expired (100 s ago by the node's clock)"),
        (lambda: order(at=NOW + 400), signed, {}, "begins in the future"),
        (lambda: order(at=1.81e9), signed, {"now": 1.81e9}, "key ops has expired on this node"),
        (order, lambda: JobConfig.parse(JOB), {}, "the job is untrusted"),
        (order, lambda: sign(JOB, MALLORY, now=NOW), {}, "the job is untrusted"),
    ],
)
def test_whatever_else_is_refused_with_its_reason(
    ring: Keyring,
    asked: Callable[[], dict[str, Any]],
    job: Callable[[], JobConfig],
    how: dict[str, Any],
    why: str,
) -> None:
    with pytest.raises(Denied) as caught:
        commander(asked(), job(), ring, **{"allowed": True, "now": NOW, **how})
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"argv": "ps"}, "a list of texts"),
        ({"argv": [1]}, "a list of texts"),
        ({"argv": []}, "which command"),
        ({"argv": ["a\0b"]}, "no NUL"),
        ({"argv": ["x" * MOST_ARGV]}, "at most"),
        ({"token": "../job:1"}, "32 hexadecimal digits"),
        ({"seconds": 0}, "more than 0"),
        ({"seconds": float("nan")}, "more than 0"),
        ({"seconds": "soon"}, "another form"),
        ({"seconds": int("9" * 400)}, "another form"),
        ({"argv": ["\ud800"]}, "valid Unicode"),
        ({"node": None, "seconds": None}, "another form"),
    ],
)
def test_a_request_of_another_form_is_none(changed: dict[str, Any], why: str) -> None:
    with pytest.raises(WrongExec, match=why):
        ExecRequest.parse(order(**changed))
