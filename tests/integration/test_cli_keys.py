"""``cyxwiz keys``, as a producer and an operator use it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.cli import Cli

pytestmark = pytest.mark.integration

JOB = json.dumps({"command": ["true"], "secrets": ["hf-token"]})


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(cwd=tmp_path)


def test_a_key_signs_and_the_operator_says_what_for(cli: Cli, tmp_path: Path) -> None:
    made = cli("keys", "new", "alice")
    assert made.code == 0, made
    assert (tmp_path / "alice.key").stat().st_mode & 0o777 == 0o600
    signed = cli("keys", "sign", "-", "--key", "alice.key", "--lifetime", "3600", stdin=JOB)
    assert signed.code == 0, signed

    asked = cli("keys", "verify", "-", "--trust", "alice.pub", stdin=signed.out)
    assert (asked.code, asked.out) == (
        8,
        "signed by alice: secrets: hf-token not in the key's scope\n",
    )
    public = tmp_path / "alice.pub"
    public.write_text(public.read_text().replace("secrets: [] ", "secrets: ['hf-*'] "))
    good = cli("keys", "verify", "-", "--trust", "alice.pub", "--json", stdin=signed.out)
    assert good.code == 0
    assert good.json == {**good.json, "trusted": True, "key": "alice", "lacking": ""}

    edited = json.dumps({**signed.json, "command": ["false"]})
    bad = cli("keys", "verify", "-", "--trust", "alice.pub", stdin=edited)
    assert bad.code == 8
    assert "changed after it was signed" in bad.out
    unsigned = cli("keys", "verify", "-", "--trust", "alice.pub", stdin=JOB)
    assert unsigned.code == 8
    assert "only a job that a key of the node has signed gets any; it is not signed" in unsigned.out


def test_no_key_is_overwritten(cli: Cli) -> None:
    assert cli("keys", "new", "alice").code == 0
    again = cli("keys", "new", "alice")
    assert again.code == 3
    assert "File exists" in again.err
    assert cli("keys", "new", "../alice").code == 3


def test_submit_refuses_a_key_before_it_looks_for_redis(cli: Cli) -> None:
    done = cli("submit", "-", "--key", "none.key", "--redis", "unix:///none.sock", stdin=JOB)
    assert done.code == 3
    assert "none.key: cannot be read" in done.err


def test_an_account_of_redis_is_printed_with_its_password_apart(cli: Cli, tmp_path: Path) -> None:
    made = cli("acl", "producer", "alice")
    assert made.code == 0
    assert made.out.startswith("user alice on #")
    password = made.err.partition("password of alice: ")[2].strip()
    assert len(password) > 40
    assert password not in made.out
    (tmp_path / "secret").write_text(password + "\n")
    again = cli("acl", "producer", "alice", "--password-file", "secret", "--json")
    assert again.json == {"user": "alice", "line": made.out.strip()}
    assert cli("acl", "node", "n").code == 3
