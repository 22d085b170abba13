"""Nothing but what is beneath the roots is ever opened."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from worker.store import beneath
from worker.store.beneath import NotBeneath, open_beneath

pytestmark = pytest.mark.unit


@pytest.fixture
def root(tmp_path: Path) -> Path:
    inside = tmp_path / "root"
    (inside / "deep").mkdir(parents=True)
    (inside / "deep" / "file").write_text("inside")
    (tmp_path / "secret").write_text("outside")
    (tmp_path / "root-but-not").mkdir()
    (tmp_path / "root-but-not" / "file").write_text("outside")
    return inside


@pytest.fixture(params=["openat2", "step by step"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of resolving: the second is for kernels that lack the first."""
    if request.param == "step by step":

        def refused(top: int, relative: object) -> int:
            raise OSError(38, "no openat2")

        monkeypatch.setattr(beneath, "_openat2", refused)
    return str(request.param)


def read(path: Path, roots: list[Path]) -> str:
    with open_beneath(path, roots) as found, os.fdopen(os.dup(found.fd)) as file:
        return file.read()


@pytest.mark.parametrize("path", ["deep/file", "deep/../deep/file", "./deep//file"])
def test_what_is_beneath_is_opened(root: Path, way: str, path: str) -> None:
    with open_beneath(Path(f"{root}/{path}"), [Path("/nowhere"), root]) as found:
        assert not found.is_dir
        assert found.path == root / "deep" / "file"
        assert os.read(found.fd, 100) == b"inside"
    with open_beneath(root, [root]) as found:
        assert found.is_dir


def test_links_that_stay_beneath_are_followed(root: Path, way: str) -> None:
    (root / "relative").symlink_to("deep/file")
    (root / "absolute").symlink_to(root / "deep" / "file")
    (root.parent / "other-name").symlink_to(root)
    assert read(root / "relative", [root]) == "inside"
    assert read(root / "absolute", [root]) == "inside"
    assert read(root.parent / "other-name" / "deep" / "file", [root]) == "inside"
    assert read(root / "relative", [root.parent / "other-name"]) == "inside"


LEAVES: dict[str, Callable[[Path], Path]] = {
    "parent": lambda root: root / ".." / "secret",
    "a name that only begins alike": lambda root: root.parent / "root-but-not" / "file",
    "relative link": lambda root: _link(root / "out", Path("../secret")),
    "absolute link": lambda root: _link(root / "out", root.parent / "secret"),
    "link to a directory": lambda root: _link(root / "up", root.parent) / "secret",
    "loop": lambda root: _link(root / "loop", Path("loop")),
    "missing": lambda root: root / "missing",
    "fifo": lambda root: _fifo(root / "fifo"),
    "device": lambda root: _link(root / "zero", Path("/dev/zero")),
    "magic link": lambda root: _link(root / "magic", Path("/proc/self/root")),
}


@pytest.mark.parametrize("leave", LEAVES)
def test_nothing_leads_out(root: Path, way: str, leave: str) -> None:
    with pytest.raises(NotBeneath):
        open_beneath(LEAVES[leave](root), [root])


def test_without_roots_nothing_is_beneath(root: Path) -> None:
    with pytest.raises(NotBeneath):
        open_beneath(root / "deep" / "file", [])


def test_a_link_swapped_in_meanwhile_is_not_followed(root: Path, way: str) -> None:
    """One thread swaps a directory with a link to outside; the other must never see outside."""
    real, spare = root / "deep", root / "spare"
    (root.parent / "evil").mkdir()
    (root.parent / "evil" / "file").write_text("outside")
    link = root / "link"
    link.symlink_to(root.parent / "evil")
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            real.rename(spare)
            link.rename(real)
            real.rename(link)
            spare.rename(real)

    swapper = threading.Thread(target=swap)
    swapper.start()
    seen = {"inside": 0, "refused": 0}
    try:
        while min(seen.values()) < 20:
            try:
                seen[read(real / "file", [root])] += 1
            except NotBeneath:
                seen["refused"] += 1
    finally:
        done.set()
        swapper.join()


def _link(path: Path, target: Path) -> Path:
    path.symlink_to(target)
    return path


def _fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path
