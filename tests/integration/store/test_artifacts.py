"""What a job leaves: collected by the node, sent to a store, fetched by its producer."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tasks.outputs import Artifact, ArtifactUnavailable
from worker.plan import AttemptId
from worker.store import artifacts, walk
from worker.store.artifacts import Collected, collect
from worker.store.delivery import deliver
from worker.store.errands.talk import Talk, Unavailable, Wrong
from worker.store.errands.upload import upload
from worker.store.policy import Policy
from worker.store.refusals import DataRefused, DataUnavailable, Interrupted, NoRoom
from worker.store.send import Waiting

pytestmark = pytest.mark.integration

ATTEMPT = AttemptId(job_id="job-1", fence=3)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / "output" / "deep").mkdir(parents=True)
    (tmp_path / "output" / "model.pt").write_bytes(b"weights")
    (tmp_path / "output" / "deep" / "log.txt").write_bytes(b"log")
    return tmp_path / "output"


def names(kept: Collected) -> list[str]:
    return [one.name for one in kept.artifacts]


def test_regular_files_are_kept_with_size_and_hash(output: Path, tmp_path: Path) -> None:
    kept = collect(output, tmp_path / "kept", most_bytes=0)
    assert names(kept) == ["deep/log.txt", "model.pt"]
    model = kept.artifacts[1]
    assert (model.size, model.sha256) == (7, hashlib.sha256(b"weights").hexdigest())
    assert model.uri == (tmp_path / "kept" / "model.pt").as_uri()
    assert not kept.refused


def test_nothing_else_is(output: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (output / "link").symlink_to(tmp_path / "secret")
    (output / "folder").symlink_to(tmp_path)
    (output / "hard").hardlink_to(tmp_path / "secret")
    os.mkfifo(output / "fifo")
    (output / "bad\nname").write_text("x")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(output / "socket"))
    kept = collect(output, tmp_path / "kept", most_bytes=0)
    assert names(kept) == ["deep/log.txt", "model.pt"]
    assert len(kept.refused) == 6
    assert all("secret" not in path.read_text() for path in (tmp_path / "kept").rglob("*.t*"))


def test_caps(output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = collect(output, tmp_path / "kept", most_bytes=8)
    assert names(kept) == ["deep/log.txt"]
    assert kept.refused == ("model.pt: larger than what is left of the cap",)
    monkeypatch.setattr(artifacts, "_MOST_ENTRIES", 2)
    kept = collect(output, tmp_path / "kept", most_bytes=0)
    assert len(kept.artifacts) == 1
    assert "more than 2 entries" in kept.refused[0]


def test_a_disk_without_room(output: Path, tmp_path: Path) -> None:
    with pytest.raises(NoRoom, match="keep_free_mb"):
        collect(output, tmp_path / "kept", most_bytes=0, keep_free=1 << 60)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["output"]


@pytest.mark.parametrize("name", ["deep", "model.pt"])
def test_what_is_swapped_in_meanwhile_is_not_followed(
    output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A straggler of the job puts a link in the place of what has just been looked at."""
    outside = tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "deep" / "log.txt").write_bytes(b"secret")
    (outside / "model.pt").write_bytes(b"secret")
    look = os.stat

    def looked(path: object, **more: Any) -> os.stat_result:
        found = look(path, **more)  # type: ignore[arg-type]
        if path == name and not (output / name).is_symlink():
            (output / name).rename(tmp_path / "away")
            (output / name).symlink_to(outside / name)
        return found

    monkeypatch.setattr(walk.os, "stat", looked)
    kept = collect(output, tmp_path / "kept", most_bytes=0)
    monkeypatch.undo()
    assert (output / name).is_symlink()
    assert len(kept.artifacts) == 1
    assert [one.partition(":")[0] for one in kept.refused] == [name]
    assert b"secret" not in {path.read_bytes() for path in kept.directory.rglob("*.*")}


@pytest.fixture
def sent(output: Path, tmp_path: Path, policy: Callable[..., Policy]) -> Callable[..., Collected]:
    def send(url: str = f"local://{tmp_path}/store", **more: Any) -> Collected:
        kept = collect(output, tmp_path / "staging", most_bytes=0)
        waiting = Waiting(stall=20, **more)
        return deliver(kept, ATTEMPT, policy(artifacts=url), waiting)

    return send


def test_sent_to_a_store_and_fetched(sent: Callable[..., Collected], tmp_path: Path) -> None:
    kept = sent()
    assert not (tmp_path / "staging").exists()
    assert kept.place == f"local://{tmp_path}/store/job-1/3"
    found = [of(one, tmp_path).fetch(tmp_path / "mine") for one in kept.artifacts]
    assert [path.read_bytes() for path in found] == [b"log", b"weights"]
    assert (tmp_path / "mine" / "deep" / "log.txt") in found


def of(one: artifacts.Artifact, at: Path) -> Artifact:
    """As its producer sees it."""
    return Artifact(name=one.name, size=one.size, sha256=one.sha256, uri=one.uri, node="node-a")


def test_a_store_that_cannot_be_written_to(
    sent: Callable[..., Collected], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.store.delivery._FIRST_WAIT_S", 0.01)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataUnavailable):
        sent(f"local://{tmp_path}/file/store")
    assert not (tmp_path / "staging").exists()
    with pytest.raises(DataRefused, match=r"storage\.hosts"):
        sent("http://10.1.2.3/store")


class Lossy(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A store that loses the last byte, or another one."""

    protocol = "lossy"
    lose = slice(0, -1)

    def put_file(self, lpath: str, rpath: str, callback: Any = None, **more: Any) -> None:
        self.pipe_file(rpath, Path(lpath).read_bytes()[self.lose])


class Changing(Lossy):
    protocol = "changing"
    lose = slice(None, None, -1)


@pytest.mark.parametrize("kind", [MemoryFileSystem, Lossy, Changing])
def test_what_arrives_is_compared(output: Path, kind: type[MemoryFileSystem]) -> None:
    fsspec.register_implementation(kind.protocol, kind, clobber=True)
    said = io.BytesIO()
    content = b"weights"
    request = {
        "scheme": kind.protocol,
        "url": f"{kind.protocol}://store/job/1",
        "options": {},
        "from": str(output),
        "files": [["model.pt", len(content), hashlib.sha256(content).hexdigest()]],
    }
    if kind is MemoryFileSystem:
        done = upload(request, Talk(io.BytesIO(), said))
        assert done["uris"] == ["memory:///store/job/1/model.pt"]
        assert fsspec.filesystem("memory").cat_file("/store/job/1/model.pt") == content
    else:
        with pytest.raises(Unavailable, match="came back with"):
            upload(request, Talk(io.BytesIO(), said))


@pytest.mark.parametrize("name", [f"../b/{'0' * 64}", "/store/b/saved", "saved", "..", ""])
def test_what_is_not_named_by_its_content_is_not_removed(output: Path, name: str) -> None:
    memory = fsspec.filesystem("memory")
    for there in (f"/store/b/{'0' * 64}", "/store/b/saved", "/store/a/saved"):
        memory.pipe_file(there, b"another's")
    request = {
        "scheme": "memory",
        "url": "memory://store/a",
        "options": {},
        "from": str(output),
        "files": [],
        "remove": [name],
    }
    before = memory.find("/store")
    with pytest.raises(Wrong, match="is no SHA-256"):
        upload(request, Talk(io.BytesIO(), io.BytesIO()))
    assert memory.find("/store") == before


def test_an_upload_that_is_cancelled(sent: Callable[..., Collected]) -> None:
    def check() -> None:
        raise Interrupted("cancelled")

    with pytest.raises(Interrupted):
        sent(check=check)


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    path = tmp_path / "kept file"
    path.write_bytes(b"weights")
    return Artifact(
        name="a/model.pt",
        size=7,
        sha256=hashlib.sha256(b"weights").hexdigest(),
        uri=path.as_uri(),
        node="node-a",
    )


def test_fetching_replaces_what_is_there(artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / "mine" / "a").mkdir(parents=True)
    (tmp_path / "mine" / "a" / "model.pt").symlink_to(tmp_path / "elsewhere")
    path = artifact.fetch(tmp_path / "mine")
    assert path.read_bytes() == b"weights"
    assert not path.is_symlink()
    assert not (tmp_path / "elsewhere").exists()
    assert [one.name for one in path.parent.iterdir()] == ["model.pt"]


@pytest.mark.parametrize("content", [b"Weights", b"weights and more", b"weight", b""])
def test_another_content_is_refused(artifact: Artifact, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "kept file").write_bytes(content)
    with pytest.raises(ArtifactUnavailable, match="not what the node kept"):
        artifact.fetch(tmp_path / "mine")
    assert not list((tmp_path / "mine" / "a").iterdir())


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/../../x", "", "a\\b", "a\nb", ".."])
def test_a_name_never_leads_out(artifact: Artifact, tmp_path: Path, name: str) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ArtifactUnavailable):
        replace(artifact, name=name).fetch(tmp_path / "mine")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_is_a_link(artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a").symlink_to(tmp_path)
    with pytest.raises(ArtifactUnavailable, match="link"):
        artifact.fetch(tmp_path / "mine")


@pytest.mark.parametrize("uri", ["", "simplecache::file:///etc/hosts", "nosuch://x/y"])
def test_places_that_are_none(artifact: Artifact, tmp_path: Path, uri: str) -> None:
    with pytest.raises(ArtifactUnavailable):
        replace(artifact, uri=uri).fetch(tmp_path / "mine")


def test_a_path_of_another_host(artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / "kept file").unlink()
    with pytest.raises(ArtifactUnavailable, match=r"node node-a .*storage\.artifacts"):
        artifact.fetch(tmp_path / "mine")


def test_a_full_disk_is_no_room(
    output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(artifacts, "settle_on_disk", full)
    with pytest.raises(NoRoom):
        collect(output, tmp_path / "kept", most_bytes=0)
    assert not (tmp_path / "kept").exists()
