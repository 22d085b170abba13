"""What is kept, what makes way, and what is not believed any more."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.store.conftest import entries, leftovers
from worker.store import cache as cache_module
from worker.store import locks
from worker.store.cache import Cache, Entry, Known
from worker.store.refusals import NoRoom
from worker.store.trees import TooMuch, Unsafe, Writer, of_one

pytestmark = pytest.mark.integration

KIB = 1 << 10


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def put(cache: Cache, name: str, size: int = 40 * KIB) -> Entry:
    with cache.begin(size) as partial:
        writer = Writer(partial.data)
        writer.file(name, io.BytesIO(name.encode() * (size // len(name))))
        return partial.publish(writer.finish())


def names(cache: Cache, root: Path) -> set[str]:
    return {
        path.name for one in entries(root) for path in (root / "entries" / one / "data").iterdir()
    }


def age(entry: Entry, seconds: float) -> None:
    """As if it had last been used so long ago."""
    size = entry.data.parent / "size"
    then = size.stat().st_mtime - seconds
    os.utime(size, (then, then))


def test_the_least_recently_used_makes_way(root: Path) -> None:
    cache = Cache(root, cap=100 * KIB, keep_free=0)
    first, second = put(cache, "first"), put(cache, "second")
    for entry, seconds in ((first, 100), (second, 200)):
        entry.close()
        age(entry, seconds)
    used = cache.use(second.sha256)
    assert used is not None
    used.close()  # now `first` is the older one
    put(cache, "third").close()
    assert names(cache, root) == {"second", "third"}
    assert not leftovers(root)


def test_a_use_keeps_it(root: Path) -> None:
    cache = Cache(root, cap=100 * KIB, keep_free=0)
    first, second = put(cache, "first"), put(cache, "second")
    with pytest.raises(NoRoom, match="in use by other jobs"):
        put(cache, "third")
    assert names(cache, root) == {"first", "second"}
    again = cache.use(first.sha256)
    assert again is not None
    first.close()
    with pytest.raises(NoRoom):
        put(cache, "third")
    again.close()
    put(cache, "third").close()
    assert names(cache, root) == {"second", "third"}
    second.close()


def test_what_is_being_written_counts(root: Path) -> None:
    cache = Cache(root, cap=100 * KIB, keep_free=0)
    with cache.begin(80 * KIB) as partial:
        with pytest.raises(NoRoom):
            cache.begin(40 * KIB)
        cache.begin(20 * KIB).close()
        with pytest.raises(NoRoom):
            partial.grow(200 * KIB)
    cache.begin(100 * KIB).close()


def test_more_than_is_needed_is_reserved_only_where_nothing_goes_for_it(root: Path) -> None:
    cache = Cache(root, cap=100 * KIB, keep_free=0)
    put(cache, "kept").close()
    with cache.begin(0) as partial:
        assert partial.grow(10 * KIB) == 10 * KIB
        assert names(cache, root) == {"kept"}
        assert partial.grow(90 * KIB) == 90 * KIB
        assert not entries(root)


def test_the_disk_keeps_its_share(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(root, cap=1 << 40, keep_free=1000 * KIB)
    put(cache, "old").close()
    free = [1030 * KIB]
    monkeypatch.setattr(cache_module, "free_bytes", lambda directory: free[0])
    with pytest.raises(NoRoom, match="keep_free_mb"):
        put(cache, "new")
    assert not entries(root), "what nobody uses went first"
    free[0] = 1050 * KIB
    put(cache, "new").close()
    with cache.begin(30 * KIB), pytest.raises(NoRoom):
        cache.begin(30 * KIB)  # the first has not written its bytes yet


CHANGES: dict[str, Callable[[Path], object]] = {
    "content": lambda file: file.write_bytes(file.read_bytes()[:-1] + b"!"),
    "length": lambda file: file.write_bytes(b""),
    "mode": lambda file: file.chmod(0o600),
    "deleted": lambda file: file.unlink(),
    "another": lambda file: (file.parent / "more").write_bytes(b""),
    "replaced": lambda file: shutil.copy(file, file.with_name("x")).replace(file),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_entry_that_somebody_changed_is_not_used(root: Path, change: str) -> None:
    cache = Cache(root, cap=1 << 20, keep_free=0)
    entry = put(cache, "data")
    times = (entry.data / "data").stat()
    entry.data.chmod(0o700)
    (entry.data / "data").chmod(0o644)
    CHANGES[change](entry.data / "data")
    if (entry.data / "data").exists():
        os.utime(entry.data / "data", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert cache.use(entry.sha256) is None
    fresh = put(cache, "data")
    assert (fresh.data / "data").read_bytes() == b"data" * (10 * KIB)
    assert fresh.data == entry.data, "whoever still has the changed one keeps it until it ends"
    fresh.close()
    entry.close()
    cache.sweep()
    assert not leftovers(root)


def test_a_tree_is_named_by_its_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    writer = Writer(tmp_path / "t", most_bytes=10, most_files=2)
    assert writer.file("a", io.BytesIO(b"x")).size == 1
    with pytest.raises(TooMuch, match="MiB"):
        writer.file("b", io.BytesIO(b"x" * 11))
    (tmp_path / "one").mkdir()
    one = Writer(tmp_path / "one")
    file = one.file("a", io.BytesIO(b"x"))
    assert one.finish().sha256 == of_one("a", file.sha256) != of_one("b", file.sha256)


@pytest.mark.parametrize("links", [{"a": "b", "b": "a"}, {"d": "x/../.."}, {"t/l": "../t"}])
def test_links_that_lead_nowhere(tmp_path: Path, links: dict[str, str]) -> None:
    (tmp_path / "t").mkdir()

    def write() -> None:
        writer = Writer(tmp_path / "t")
        for name, target in links.items():
            writer.link(name, target)
        writer.finish()

    with pytest.raises(Unsafe):
        write()


def test_a_link_to_a_folder_is_that_folder(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    writer = Writer(tmp_path / "t")
    writer.link("alias", "real/deep")
    writer.link("real/deep/again", "file")
    writer.file("real/deep/file", io.BytesIO(b"x"))
    tree = writer.finish()
    assert [one.name for one in tree.files] == [
        "alias/again", "alias/file", "real/deep/again", "real/deep/file",
    ]  # fmt: skip
    assert (tmp_path / "t" / "alias" / "again").read_bytes() == b"x"


def test_what_is_remembered_is_not_swept_while_it_is_written(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(root, cap=100 * KIB, keep_free=0)
    entry = put(cache, "first")
    known = Known(sha256=entry.sha256, token="t", folder=False, asked=1.0)
    alone: list[bool] = []
    replace = Path.replace

    def replaced(path: Path, target: Path) -> Path:
        held = locks.attempt(root / "lock")  # who sweeps holds it
        alone.append(held is None)
        if held is not None:
            held.close()
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", replaced)
    cache.remember("key", known)
    assert alone == [True]
    assert cache.known("key") == known


def test_an_entry_that_nobody_got_is_nobodys(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(root, cap=100 * KIB, keep_free=0)
    entry = put(cache, "first")
    with pytest.raises(OSError, match="full"), entry.unless_kept():
        raise OSError("the disk is full")
    put(cache, "second", size=90 * KIB).close()
    assert names(cache, root) == {"second"}, "the first made way"
