"""Who may run a command beside a job, and what is refused with which reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.errors import WrongExec
from tasks.exec_request import _KIND, EXEC_END, MOST_ARGV, ExecRequest
from tasks.job import JobConfig
from tasks.trust import SigningKey, seal, sign
from worker.trust.commanding import Denied, NotAsked, asker, commander
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
    request = ExecRequest.new("job-1", "node-a", ["ps", "-ef"], 60, key)
    return {**request.signed(key, at), **changed}


def older(key: SigningKey = OPS, **changed: Any) -> dict[str, Any]:
    """As an asker of the version before signs it."""
    request = ExecRequest(
        token="0" * 32, job_id="job-1", node="node-a", argv=("ps",), seconds=60.0, **changed
    )
    return request.signed(key, NOW)


def signed() -> JobConfig:
    return sign(JOB, ALICE, now=NOW - 5)


def commanded(
    order: dict[str, Any], job: JobConfig, ring: Keyring, *, allowed: bool = True, now: float = NOW
) -> str:
    """Whose key it is that may."""
    key, stamp = asker(order, ExecRequest.parse(order), ring)
    return commander(key, stamp, job, ring, allowed=allowed, now=now).name


def test_a_key_with_exec_may_beside_a_trusted_job(ring: Keyring) -> None:
    assert commanded(order(), signed(), ring) == "ops"


def test_a_job_that_outlives_its_signature_stays_trusted(ring: Keyring) -> None:
    job = sign(JOB, ALICE, now=NOW - 3600, lifetime=60)
    assert commanded(order(), job, ring) == "ops"


def test_an_asker_of_the_version_before_may_too(ring: Keyring) -> None:
    assert commanded(older(), signed(), ring) == "ops"


@pytest.mark.parametrize(
    ("asked", "job", "how", "why"),
    [
        (order, signed, {"allowed": False}, "trust.allow_exec: true would"),
        (lambda: order(MALLORY), signed, {"allowed": False}, "trust.allow_exec: true would"),
        (lambda: order(MALLORY), signed, {}, "not known here: trust.keys"),
        (lambda: order(ALICE), signed, {}, "the key alice may not"),
        (lambda: older(ALICE), signed, {}, "the key alice may not"),
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
        commanded(asked(), job(), ring, **how)
    assert why in str(caught.value)


OTHERS = order()


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (lambda: order(signature=None), "not of the form"),
        (lambda: order(signature=signed().signature), "another request"),  # another key's
        (lambda: order(signature=order()["signature"]), "not that of this request"),
        (lambda: order(argv=["rm", "-r", "/"]), "another request"),
        (lambda: order(node="node-b"), "another request"),
        (lambda: order(seconds=3000.0), "another request"),
        (lambda: order(ends="0" * 64), "another request"),
        (lambda: {**OTHERS, "signature": order(ALICE)["signature"]}, "another request"),
        (lambda: {**OTHERS, "signature": order(MALLORY)["signature"]}, "another request"),
        (lambda: order(token=OTHERS["token"]), "another request"),
        (lambda: replace(of(OTHERS), argv=("id",)).signed(ALICE, NOW), "another request"),
        (lambda: replace(of(OTHERS), ends="").signed(ALICE, NOW), "another request"),
        (lambda: older(MALLORY), "not known here"),
    ],
)
def test_what_may_be_somebody_elses_answer_is_given_none(
    ring: Keyring, asked: Callable[[], dict[str, Any]], why: str
) -> None:
    """Whoever hears a request can say it again, in any other way, signed with a key of its own."""
    with pytest.raises(NotAsked, match=why):
        commanded(asked(), signed(), ring)


def test_who_may_sign_for_long_signs_in_vain(ring: Keyring) -> None:
    """The nonce of a request is not remembered for so long."""
    request = ExecRequest.new("job-1", "node-a", ["ps"], 60, OPS)
    wire = {**request.signed(OPS, NOW)}
    del wire["signature"]
    asked = {**wire, "signature": seal(_KIND, wire, OPS, int(NOW), 7200)}
    with pytest.raises(Denied, match="good for more than 300 s"):
        commanded(asked, signed(), ring)


def test_only_the_asker_ends_its_command() -> None:
    mine = ExecRequest.new("job-1", "node-a", ["ps"], 60, OPS)
    heard = of(mine.signed(OPS, NOW))
    assert heard.ended_by(mine.ending())
    assert mine.secret not in json.dumps(mine.signed(OPS, NOW))
    other = ExecRequest.new("job-1", "node-a", ["ps"], 60, OPS).ending()
    for said in (
        {"op": EXEC_END, "token": mine.token},
        {**other, "token": mine.token},
        {**mine.ending(), "token": other["token"]},
        {**mine.ending(), "secret": mine.ends},
    ):
        assert not heard.ended_by(said)
    assert not of(older()).ended_by({"op": EXEC_END, "token": "0" * 32})


def of(asked: dict[str, Any]) -> ExecRequest:
    return ExecRequest.parse(asked)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"argv": "ps"}, "a list of texts"),
        ({"argv": [1]}, "a list of texts"),
        ({"argv": []}, "which command"),
        ({"argv": ["a\0b"]}, "no NUL"),
        ({"argv": ["x" * MOST_ARGV]}, "at most"),
        ({"token": "../job:1"}, "32 hexadecimal digits"),
        ({"ends": "0"}, "64 hexadecimal digits"),
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
