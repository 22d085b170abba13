"""Data by URL: a real server, real transfers, a cache of the test's own."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.store.conftest import entries, leftovers
from tests.integration.store.serving import Page, Server
from worker.store import locks
from worker.store.cache import Cache
from worker.store.fetching import Fetcher, Moved
from worker.store.refusals import DataRefused, DataUnavailable, Interrupted, NoRoom
from worker.store.sources import Source, parse

pytestmark = pytest.mark.integration

MIB = 1 << 20


def source(server: Server, path: str) -> Source:
    return parse("dataset_uri", f"{server.url}/{path}", ("http",))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_file_is_fetched_once_and_read_only(
    server: Server, fetcher: Callable[..., Fetcher]
) -> None:
    server.pages["/rows.csv"] = page = Page(b"1,2\n" * 1000, etag='"a"')
    told: list[Moved] = []
    first = fetcher(moved=lambda shown, moved: told.append(moved)).fetch(source(server, "rows.csv"))
    again = fetcher().fetch(source(server, "rows.csv"))
    path = first.entry.data / "rows.csv"
    assert path.read_bytes() == page.content
    assert again.entry.data == first.entry.data
    assert not first.folder
    assert server.asked["GET /rows.csv"] == 1, "the ETag told that nothing had changed"
    assert told[0] == Moved(done=0, total=4000)
    assert told[-1] == Moved(done=4000, total=4000)
    assert [oct(one.stat().st_mode & 0o777) for one in (path, path.parent)] == ["0o444", "0o555"]


def test_another_content_is_another_entry(server: Server, fetcher: Callable[..., Fetcher]) -> None:
    server.pages["/a"] = page = Page(b"old", etag='"1"')
    old = fetcher().fetch(source(server, "a"))
    page.content, page.etag = b"new", '"2"'
    new = fetcher().fetch(source(server, "a"))
    assert (old.entry.data / "a").read_bytes() == b"old", "it is still in use"
    assert (new.entry.data / "a").read_bytes() == b"new"


def test_without_a_mark_it_is_fetched_again_and_kept_once(
    server: Server, fetcher: Callable[..., Fetcher], tmp_path: Path
) -> None:
    server.pages["/x/a"] = server.pages["/y/a"] = Page(b"same")
    for path in ("x/a", "x/a", "y/a"):
        fetcher().fetch(source(server, path)).entry.close()
    assert server.asked["GET /x/a"] == 2
    assert len(entries(tmp_path / "cache")) == 1
    assert not leftovers(tmp_path / "cache")


def test_what_is_pinned_and_there_needs_no_server(
    server: Server, fetcher: Callable[..., Fetcher]
) -> None:
    server.pages["/a"] = Page(b"pinned")
    pinned = source(server, f"a#sha256={sha256(b'pinned')}")
    fetcher().fetch(pinned).entry.close()
    server.pages.clear()
    server.asked.clear()
    assert (fetcher().fetch(pinned).entry.data / "a").read_bytes() == b"pinned"
    assert not server.asked


def test_another_content_than_the_pin_says(server: Server, fetcher: Callable[..., Fetcher]) -> None:
    server.pages["/a"] = Page(b"changed")
    wanted = sha256(b"original")
    with pytest.raises(DataRefused) as caught:
        fetcher().fetch(source(server, f"a?token=hidden#sha256={wanted}"))
    assert sha256(b"changed") in str(caught.value)
    assert wanted in str(caught.value)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("etag", ["", '"1"'])
def test_what_cannot_be_remembered_is_nobodys(
    server: Server,
    fetcher: Callable[..., Fetcher],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    etag: str,
) -> None:
    server.pages["/a"] = Page(b"a", etag=etag)
    fetcher().fetch(source(server, "a")).entry.close()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Cache, "remember", full)
    with pytest.raises(OSError, match="No space left"):
        fetcher().fetch(source(server, "a"))
    cache = tmp_path / "cache"
    [entry] = entries(cache)
    for user in (cache / "entries" / entry / "users").iterdir():
        assert locks.attempt(user, create=False) is not None, "it can make way"


def test_a_size_that_nobody_announced(
    server: Server, fetcher: Callable[..., Fetcher], tmp_path: Path
) -> None:
    content = os.urandom(3 * MIB)
    server.pages["/a"] = Page(content, announced=-1)
    assert (fetcher().fetch(source(server, "a")).entry.data / "a").read_bytes() == content
    server.pages["/b"] = Page(os.urandom(80 * MIB), announced=-1)
    with pytest.raises(NoRoom, match="cache_mb"):
        fetcher(cap=70 * MIB).fetch(source(server, "b"))
    assert not leftovers(tmp_path / "cache")


def test_a_transfer_that_breaks_off_leaves_nothing(
    server: Server, fetcher: Callable[..., Fetcher], tmp_path: Path
) -> None:
    server.pages["/a"] = Page(b"half", announced=8)
    with pytest.raises(DataUnavailable):
        fetcher().fetch(source(server, "a"))
    assert not leftovers(tmp_path / "cache")
    assert not entries(tmp_path / "cache")


def test_a_transfer_that_stands_still_is_given_up(
    server: Server, fetcher: Callable[..., Fetcher], tmp_path: Path
) -> None:
    server.pages["/a"] = Page(b"x" * MIB, hold_after=10)
    with pytest.raises(DataUnavailable, match=r"timeouts\.transfer"):
        fetcher(stall=1.5).fetch(source(server, "a"))
    assert not leftovers(tmp_path / "cache")


def test_a_transfer_that_nobody_wants_any_more(
    server: Server, fetcher: Callable[..., Fetcher], tmp_path: Path
) -> None:
    server.pages["/a"] = page = Page(b"x" * MIB, hold_after=10)

    def check() -> None:
        if page.held.is_set():
            raise Interrupted("cancelled")

    with pytest.raises(Interrupted):
        fetcher(check=check).fetch(source(server, "a"))
    assert not leftovers(tmp_path / "cache")


def test_what_is_not_there(server: Server, fetcher: Callable[..., Fetcher]) -> None:
    with pytest.raises(DataUnavailable, match="answered 404"):
        fetcher().fetch(source(server, "nothing"))


@pytest.mark.parametrize("hosts", [("*",), ("data.example.org",), ()])
def test_an_address_that_is_not_named(
    server: Server, fetcher: Callable[..., Fetcher], hosts: tuple[str, ...]
) -> None:
    server.pages["/a"] = Page(b"inside the operator's network")
    for host in ("127.0.0.1", "localhost"):
        at = parse("dataset_uri", f"{server.url}/a".replace("127.0.0.1", host), ("http",))
        with pytest.raises(DataRefused, match=r"storage\.hosts"):
            fetcher(hosts=hosts).fetch(at)
    assert not server.asked


def test_a_redirection_leads_to_no_address_that_is_not_named(
    server: Server, fetcher: Callable[..., Fetcher]
) -> None:
    with Server("127.0.0.2") as inner:
        inner.pages["/secret"] = Page(b"secret")
        there = inner.url.replace("127.0.0.1", "127.0.0.2")
        server.pages["/a"] = Page(redirect=f"{there}/secret")
        server.pages["/b"] = Page(redirect=f"{server.url}/c")
        server.pages["/c"] = Page(b"moved")
        with pytest.raises(DataRefused, match=r"storage\.hosts"):
            fetcher().fetch(source(server, "a"))
        assert not inner.asked
        assert (fetcher().fetch(source(server, "b")).entry.data / "b").read_bytes() == b"moved"


def test_a_folder_of_a_file_system(fetcher: Callable[..., Fetcher], tmp_path: Path) -> None:
    (tmp_path / "set" / "deep").mkdir(parents=True)
    (tmp_path / "set" / "b.txt").write_text("b")
    (tmp_path / "set" / "deep" / "a.txt").write_text("a")
    lines = f"{sha256(b'b')}  b.txt\n{sha256(b'a')}  deep/a.txt\n"
    uri = f"local://{tmp_path}/set#sha256={sha256(lines.encode())}"
    fetched = fetcher().fetch(parse("dataset_uri", uri, ("local",)))
    assert fetched.folder
    assert (fetched.entry.data / "deep" / "a.txt").read_text() == "a"
    assert fetched.entry.sha256 == sha256(lines.encode()), "as `sha256sum` would have it"
