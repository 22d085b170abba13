"""Archives of data: a folder for the built-in runner, and a file for whoever named one."""

from __future__ import annotations

import hashlib
import io
import random
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tasks.job import JobConfig
from tests.integration.store.conftest import entries, leftovers
from tests.integration.store.serving import Page, Server
from worker.store import locks
from worker.store.cache import Cache, Known
from worker.store.policy import Policy
from worker.store.provide import Provided, Store
from worker.store.refusals import DataRefused, NoRoom

pytestmark = pytest.mark.integration

TRAINED = {"model_definition": {"layers": [{"type": "Dense", "units": 2}]}}
IMAGES = {"pets/cat/1.png": b"c", "pets/dog/1.png": b"d", "__MACOSX/pets/cat/._1.png": b"x"}

Provide = Callable[..., Provided]


def packed(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in files.items():
            opened.writestr(name, content)
    return out.getvalue()


@pytest.fixture
def provide(policy: Callable[..., Policy]) -> Provide:
    def one(uri: str, program: Mapping[str, object] = TRAINED, **changed: object) -> Provided:
        return Store(policy(**changed)).provide(JobConfig.parse({**program, "dataset_uri": uri}))

    return one


def test_the_runner_gets_a_folder_and_a_program_its_archive(
    provide: Provide, server: Server, tmp_path: Path
) -> None:
    content = packed(IMAGES)
    pin = hashlib.sha256(content).hexdigest()
    server.pages["/pets.zip"] = Page(content, etag='"1"')
    uri = f"{server.url}/pets.zip#sha256={pin}"
    for _ in range(2):
        with_folder = provide(uri)
        folder = with_folder.data_path
        assert folder is not None
        assert sorted(str(one.relative_to(folder)) for one in folder.rglob("*.png")) == [
            "cat/1.png",
            "dog/1.png",
        ], "the one folder is the data"
        assert with_folder.fds, "it stays as long as the job"
        with_folder.close()
    assert server.asked["GET /pets.zip"] == 1
    assert len(entries(tmp_path / "cache")) == 2
    file = provide(uri, {"command": ["true"]}).data_path
    assert file is not None
    assert (file.name, file.read_bytes()) == ("pets.zip", content)
    assert not leftovers(tmp_path / "cache")


def test_an_archive_and_its_files_have_to_fit_into_the_cache(
    provide: Provide, server: Server, tmp_path: Path
) -> None:
    """Where they never will, the job is rejected; where others are in the way, handed back."""
    packed_mb, unpacked_mb = 2, 3
    content = packed({"noise": random.Random(1).randbytes(packed_mb << 20)})
    both = packed({"noise": random.Random(1).randbytes(packed_mb << 20), "zeros": bytes(1 << 20)})
    server.pages["/others.zip"] = Page(content, etag='"1"')
    server.pages["/mine.zip"] = Page(both, etag='"1"')
    mine = f"{server.url}/mine.zip"
    for _ in range(2):
        with pytest.raises(DataRefused, match=r"with the archive \(2\.0 MiB\).* of 5\.0 MiB"):
            provide(mine, cap=(packed_mb + unpacked_mb) << 20)
    cap = (packed_mb + unpacked_mb + 1) << 20
    others = provide(f"{server.url}/others.zip", {"command": ["true"]}, cap=cap)
    with pytest.raises(NoRoom, match="in use by other jobs"):
        provide(mine, cap=cap)
    others.close()
    provide(mine, cap=cap).close()
    assert not leftovers(tmp_path / "cache")


def test_it_is_remembered_before_another_may_unpack_it(
    provide: Provide, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember, alone = Cache.remember, []

    def watched(cache: Cache, key: str, known: Known) -> None:
        lock = locks.attempt(tmp_path / "cache" / "keys" / f"{key}.lock")
        alone.append(lock is None)
        if lock is not None:
            lock.close()
        remember(cache, key, known)

    monkeypatch.setattr(Cache, "remember", watched)
    server.pages["/pets.zip"] = Page(packed(IMAGES), etag='"1"')
    provide(f"{server.url}/pets.zip").close()
    assert alone == [True, True], "of the archive, and of what was in it"


def test_an_archive_that_nobody_may_unpack(
    provide: Provide, server: Server, tmp_path: Path
) -> None:
    for name, content, says in (
        ("up.zip", packed({"../up": b"x"}), "no path inside"),
        ("garbage.zip", b"PK\x03\x04 and nothing more", "cannot be read as a zip"),
    ):
        server.pages[f"/{name}"] = Page(content, etag=f'"{name}"')
        with pytest.raises(DataRefused, match=rf"dataset_uri 'http://.*/{name}': .*{says}"):
            provide(f"{server.url}/{name}")
    server.pages["/bomb.zip"] = Page(packed({"zeros": bytes(8 << 20)}), etag='"b"')
    with pytest.raises(
        DataRefused, match=r"more than 3\.9.* MiB.* of 4\.0 MiB \(storage\.cache_mb"
    ):
        provide(f"{server.url}/bomb.zip", cap=4 << 20)
    assert not leftovers(tmp_path / "cache")
    assert not (tmp_path / "up").exists()
    for one in entries(tmp_path / "cache"):
        users = tmp_path / "cache" / "entries" / one / "users"
        assert all(locks.attempt(user, create=False) for user in users.iterdir()), "nobody's"
