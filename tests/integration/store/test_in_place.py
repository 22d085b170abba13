"""``file:`` data: read where they are, beneath the roots, and pinned all the same."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from worker.store.datasets import Data, data_of
from worker.store.fetching import Fetcher
from worker.store.policy import Policy
from worker.store.refusals import DataRefused, Interrupted
from worker.store.sources import parse

pytestmark = pytest.mark.integration


@pytest.fixture
def get(policy: Callable[..., Policy], fetcher: Callable[..., Fetcher]) -> Callable[..., Data]:
    def one(uri: str, check: Callable[[], None] = lambda: None) -> Data | None:
        rules = policy()
        return data_of(parse("dataset_uri", uri, rules.schemes), rules, fetcher(), check)

    return one


def test_it_is_not_copied(get: Callable[..., Data], tmp_path: Path) -> None:
    file = tmp_path / "data" / "a b.csv"
    file.parent.mkdir()
    file.write_text("1\n")
    assert get(file.as_uri()) == Data(path=file)
    assert get(file.parent.as_uri()) == Data(path=file.parent)
    assert get("builtin:digits") is None
    assert not (tmp_path / "cache").exists()


def test_outside_the_roots(get: Callable[..., Data], tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link").symlink_to(tmp_path / "secret")
    for path in ("secret", "data/link", "data/../secret", "data/missing"):
        with pytest.raises(DataRefused, match=r"storage\.roots"):
            get(f"file://{tmp_path}/{path}")


def test_a_pinned_file(get: Callable[..., Data], tmp_path: Path) -> None:
    file = tmp_path / "data" / "a"
    file.parent.mkdir()
    file.write_bytes(b"good")
    uri = f"{file.as_uri()}#sha256={hashlib.sha256(b'good').hexdigest()}"
    assert get(uri).path == file
    file.write_bytes(b"evil")
    with pytest.raises(DataRefused, match=hashlib.sha256(b"evil").hexdigest()):
        get(uri)

    def check() -> None:
        raise Interrupted("cancelled")

    with pytest.raises(Interrupted):
        get(uri, check)


def test_a_pinned_folder_as_the_documentation_says_it(
    get: Callable[..., Data], tmp_path: Path
) -> None:
    folder = tmp_path / "data" / "set"
    (folder / "Z").mkdir(parents=True)
    for name in ("b", "a c", "Z/é"):
        (folder / name).write_text(name)
    docs = (Path(__file__).parents[3] / "docs" / "data.md").read_text()
    [command] = [line for line in docs.splitlines() if "sha256sum" in line and "find" in line]
    said = subprocess.run(
        ["/bin/sh", "-c", command], cwd=folder, capture_output=True, check=True, env=os.environ
    )
    pin = said.stdout.decode().split()[0]
    assert get(f"{folder.as_uri()}#sha256={pin}").path == folder
    (folder / "link").symlink_to("b")
    with pytest.raises(DataRefused, match="link"):
        get(f"{folder.as_uri()}#sha256={pin}")
