"""A copy of a directory that a job writes to, and may fill with whatever it likes."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from worker.store.refusals import NoRoom
from worker.store.snapshot import MOST_FILES, Camera, Snapshot, Unsettled

pytestmark = pytest.mark.unit

NO_DISK_HAS = 1 << 60


class Scene:
    """A job's directory, and what looks at it."""

    def __init__(self, place: Path) -> None:
        self.job = place / "checkpoints"
        self.job.mkdir()
        self.staging = place / "copying"

    def camera(
        self,
        most_bytes: int = 0,
        keep_free: int = 0,
        check: Callable[[], None] = lambda: None,
    ) -> Camera:
        return Camera(
            self.job, self.staging, most_bytes=most_bytes, keep_free=keep_free, check=check
        )

    def names(self, snapshot: Snapshot | None) -> list[str]:
        assert snapshot is not None
        return [one.name for one in snapshot.files]

    def copies(self) -> list[str]:
        return sorted(one.name for one in self.staging.iterdir())


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_each_file_is_copied_under_its_hash(scene: Scene) -> None:
    (scene.job / "a").write_bytes(b"one")
    (scene.job / "folder").mkdir()
    (scene.job / "folder" / "b").write_bytes(b"two")
    (scene.job / "again").write_bytes(b"one")
    found = scene.camera().take(())
    assert scene.names(found) == ["a", "again", "folder/b"]
    assert found is not None
    assert found.size == 9
    assert scene.copies() == sorted([found.listing, sha256(b"one"), sha256(b"two")])
    assert {one.sha256 for one in found.fresh} == found.names
    for one in found.fresh:
        assert sha256((scene.staging / one.name).read_bytes()) == one.sha256


def test_what_is_there_is_copied_no_more(scene: Scene) -> None:
    camera = scene.camera()
    for number in range(2):
        (scene.job / f"epoch-{number}").write_bytes(b"%d" % number)
        os.utime(scene.job / f"epoch-{number}", (1, 1))
    first = camera.take(())
    assert first is not None
    (scene.job / "epoch-0").unlink()
    (scene.job / "epoch-2").write_bytes(b"2")
    second = camera.take(first.names)
    assert second is not None
    assert scene.names(second) == ["epoch-1", "epoch-2"]
    assert {one.sha256 for one in second.fresh} == {second.listing, sha256(b"2")}


def test_nothing_is_no_snapshot(scene: Scene) -> None:
    assert scene.camera().take(()) is None
    scene.job.rmdir()
    assert scene.camera().take(()) is None


def test_what_is_being_written_is_passed_over(scene: Scene) -> None:
    (scene.job / "whole").touch()
    (scene.job / ".partial-next").touch()
    (scene.job / ".partial-folder").mkdir()
    (scene.job / ".partial-folder" / "part").touch()
    assert scene.names(scene.camera().take(())) == ["whole"]


def test_nothing_is_followed(scene: Scene, tmp_path: Path) -> None:
    """No link, no second name of a file, nothing that is none."""
    secret = tmp_path / "secret"
    secret.write_text("of the node")
    (scene.job / "good").touch()
    (scene.job / "link").symlink_to(secret)
    (scene.job / "folder").symlink_to(tmp_path)
    (scene.job / "hard").hardlink_to(secret)
    os.mkfifo(scene.job / "pipe")
    found = scene.camera().take(())
    assert scene.names(found) == ["good"]
    assert found is not None
    assert len(found.left_out) == 4


def test_a_link_in_place_of_the_directory_is_not_followed(scene: Scene, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "secret").touch()
    scene.job.rmdir()
    scene.job.symlink_to(other)
    with pytest.raises(Unsettled):
        scene.camera().take(())


def test_a_file_that_changes_under_it_makes_no_snapshot(scene: Scene) -> None:
    saved = scene.job / "saved"
    saved.write_bytes(b"first")

    def change() -> None:
        with saved.open("ab") as file:
            file.write(b", and more")

    with pytest.raises(Unsettled, match="saved changed"):
        scene.camera(check=change).take(())
    assert [one for one in scene.copies() if not one.startswith(".")] == []


@pytest.mark.parametrize("change", ["changes", "comes", "goes", "is replaced"])
def test_two_checkpoints_are_never_mixed(scene: Scene, change: str) -> None:
    """One that becomes the next one while it is copied, in a file that is not being copied then."""
    for name in ("a", "b", "c"):
        (scene.job / name).write_bytes(b"first")
    done: list[int] = []

    def at_the_last() -> None:
        done.append(1)
        if len(done) != 3:
            return
        match change:
            case "changes":
                (scene.job / "a").write_bytes(b"other")
            case "comes":
                (scene.job / "folder").mkdir()
                (scene.job / "folder" / "d").touch()
            case "goes":
                (scene.job / "a").unlink()
            case _:
                (scene.job / ".partial-a").write_bytes(b"first")
                (scene.job / ".partial-a").rename(scene.job / "a")

    found = scene.camera(check=at_the_last).take(())
    assert found is not None
    there = {
        str(path.relative_to(scene.job)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in scene.job.rglob("*")
        if path.is_file()
    }
    assert {one.name: one.sha256 for one in found.files} == there, "as it is in the end, whole"
    assert found.names <= set(scene.copies())


def test_what_changes_again_and_again_makes_no_snapshot(scene: Scene) -> None:
    for name in ("a", "b"):
        (scene.job / name).write_bytes(b"first")
    count = itertools.count()

    def change_the_other() -> None:
        (scene.job / "a").write_bytes(b"%d" % next(count))

    with pytest.raises(Unsettled, match="a changed"):
        scene.camera(check=change_the_other).take(())


def test_what_is_being_written_meanwhile_changes_nothing(scene: Scene) -> None:
    (scene.job / "whole").write_bytes(b"whole")
    camera = scene.camera(check=lambda: (scene.job / ".partial-next").touch())
    assert scene.names(camera.take(())) == ["whole"]


def test_too_much_has_no_copy(scene: Scene) -> None:
    (scene.job / "sparse").touch()
    os.truncate(scene.job / "sparse", (1 << 20) + 1)
    with pytest.raises(Unsettled, match="1 MiB"):
        scene.camera(most_bytes=1 << 20).take(())
    with pytest.raises(NoRoom):
        scene.camera(keep_free=NO_DISK_HAS).take(())
    (scene.job / "sparse").unlink()
    for number in range(MOST_FILES + 1):
        (scene.job / f"{number}").touch()
    with pytest.raises(Unsettled, match=str(MOST_FILES)):
        scene.camera().take(())
