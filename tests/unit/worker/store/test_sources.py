"""URLs of jobs: which are taken, and what is shown of them."""

from __future__ import annotations

import pytest

from worker.store.refusals import DataRefused
from worker.store.sources import masked, parse

pytestmark = pytest.mark.unit

SCHEMES = ("builtin", "file", "https", "s3", "ftp")
PIN = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("https://d.example.org/a/train.csv", "train.csv"),
        ("https://d.example.org/a/my%20set.npz?x=1", "my set.npz"),
        ("https://d.example.org/", "data"),
        ("https://d.example.org/a/%2e%2e", "data"),
        ("https://d.example.org/a%2Fb", "data"),
        ("https://d.example.org/a%0Ab", "data"),
        ("s3://bucket/folder/", "folder"),
        ("file:///data/x.csv", "x.csv"),
    ],
)
def test_what_a_file_is_called(uri: str, name: str) -> None:
    source = parse("dataset_uri", uri, SCHEMES)
    assert source.name == name
    assert source.pin is None


def test_a_pin_is_no_part_of_the_url() -> None:
    source = parse("dataset_uri", f"https://u:pass@h.example/x?key=1#sha256={PIN}", SCHEMES)
    assert source.pin == PIN
    assert source.url == "https://u:pass@h.example/x?key=1"
    assert source.shown == "https://h.example/x"
    assert str(parse("dataset_uri", "file:/d/a%20b%23c", SCHEMES).path) == "/d/a b#c"


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("http://h/x", "storage.schemes"),
        ("local:///etc/passwd", "storage.schemes"),
        ("https:h/x", "write https://"),
        ("https:/etc/passwd", "write https://"),
        ("https://h/x::file:///etc/passwd", "no '::'"),
        ("file://host/x", "names no host"),
        ("file:x", "absolute path"),
        ("file:///x?y", "%3F"),
        ("file:///x%00y", "absolute path"),
        (f"https://h/x#sha256={PIN[:-1]}", "64 hex digits"),
        (f"https://h/x#SHA256={PIN}", "64 hex digits"),
        (f"https://h/x#sha256={PIN.upper()}", "64 hex digits"),
        ("https://h/x#part", "%23"),
    ],
)
def test_what_is_refused(uri: str, says: str) -> None:
    with pytest.raises(DataRefused) as caught:
        parse("dataset_uri", uri, SCHEMES)
    assert says in str(caught.value)
    assert "dataset_uri" in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:secret@h:8/x?sig=secret", "https://h:8/x"),
        ("local:///a/b", "local:///a/b"),
        ("https://[bad/x?secret", "https:…"),
    ],
)
def test_no_secret_is_shown(url: str, shown: str) -> None:
    assert masked(url) == shown
