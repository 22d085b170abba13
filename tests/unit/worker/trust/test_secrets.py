"""The node's file of secrets: read only if nobody else can, and never quoted in an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.errors import ConfigError
from worker.trust.secrets import Secrets


def written(path: Path, text: str, mode: int = 0o600) -> Secrets:
    file = path / "secrets.yaml"
    file.write_text(text)
    file.chmod(mode)
    return Secrets(file)


def test_names_and_values(tmp_path: Path) -> None:
    found = written(tmp_path, "hf-token: hf_12345678\nkey: |\n  line 1 of it\n  line 2\n")
    assert found.names() == {"hf-token", "key"}
    assert found.take(["key", "other"]) == {"key": "line 1 of it\nline 2\n"}
    written(tmp_path, "hf-token: changed-since\n")
    assert found.take(["hf-token"]) == {"hf-token": "changed-since"}
    assert Secrets(None).names() == frozenset()
    assert written(tmp_path, "").names() == frozenset()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644])
def test_a_file_that_others_can_read_is_not_read(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ConfigError, match="chmod 600"):
        written(tmp_path, "hf-token: hf_12345678\n", mode).names()


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("hf-token: hunter2", "8 to 65536 characters"),
        ("hf-token: '       hunter2'", "8 to 65536 characters"),
        ("hf-token: 12345678901", "must be text"),
        ("hf-token: [hunter2hunter2]", "must be text"),
        ("'../hunter2hunter2': hunter2hunter2", "one of the names is none"),
        ("- hunter2hunter2", "are needed"),
        ("hunter2hunter2", "are needed"),
        ("a: hunter2hunter2\nhunter2hunter2", "is no YAML of names and values"),
        ("a: *hunter2hunter2", "is no YAML of names and values"),
        (f"a: {'hunter2' * 10_000}", "8 to 65536 characters"),
    ],
)
def test_what_is_wrong_is_said_without_a_value(tmp_path: Path, text: str, wrong: str) -> None:
    with pytest.raises(ConfigError) as caught:
        written(tmp_path, text).names()
    assert wrong in str(caught.value)
    assert "secrets.yaml" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        Secrets(tmp_path / "none").names()
