"""What an attempt's files take on the disk, as its keeper measures it."""

from __future__ import annotations

import ctypes
import errno
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.hidden_files import as_another_user, faulty, grown, nameless, reserve, running
from worker.keeper import disk, prctl, procfs
from worker.keeper.disk import Disk

pytestmark = pytest.mark.unit

_MIB = 1 << 20


def too_much(one: Disk, *pids: int) -> bool:
    return any(one.round(lambda: list(pids)))


def of(directory: Path, *, confined: bool = True) -> Disk:
    """With a cap of a mebibyte."""
    return Disk([str(directory)], _MIB, confined=confined)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    made = tmp_path / "place"
    made.mkdir()
    return made


@pytest.fixture
def public() -> Iterator[Path]:
    """One that other users can reach."""
    with tempfile.TemporaryDirectory(dir="/tmp") as made:
        Path(made).chmod(0o755)
        yield Path(made)


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="runs processes as another user")


class TestNamed:
    def test_counts_files_below(self, place: Path) -> None:
        (place / "a" / "b").mkdir(parents=True)
        directories = sum(one.stat().st_blocks * 512 for one in (place / "a", place / "a" / "b"))
        (place / "a" / "b" / "big").write_bytes(bytes(_MIB - directories))
        assert not too_much(of(place))
        (place / "one").write_bytes(b"x")
        assert too_much(of(place))

    def test_does_not_follow_links(self, place: Path) -> None:
        inside = place / "inside"
        inside.mkdir()
        (place / "big").write_bytes(bytes(2 * _MIB))
        (inside / "file").symlink_to(place / "big")
        (inside / "directory").symlink_to(place)
        assert not too_much(of(inside))

    def test_a_missing_directory_is_empty(self, place: Path) -> None:
        assert not too_much(of(place / "none"))

    def test_too_many_files(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(disk, "MAX_FILES", 10)
        for i in range(10):
            (place / str(i)).touch()
        assert not too_much(of(place))
        (place / "more").mkdir()
        assert too_much(of(place))

    def test_what_is_too_deep_to_be_looked_at_is_too_much(self, place: Path) -> None:
        deep = place
        for _ in range(63):
            deep /= "d"
        deep.mkdir(parents=True)
        before = _open_now()
        assert not too_much(of(place))
        (deep / "d").mkdir()
        assert too_much(of(place))
        assert _open_now() == before

    def test_room_that_is_reserved_beyond_the_end_counts(self, place: Path) -> None:
        with (place / "small").open("wb") as file:
            reserve(file.fileno(), 4 * _MIB)
            assert (place / "small").stat().st_size == 0
            assert too_much(of(place))

    def test_a_directory_counts_with_what_it_has_grown_to(self, place: Path) -> None:
        grown(place / "inside", _MIB)
        assert too_much(of(place))

    def test_so_does_the_one_that_it_was_given(self, place: Path) -> None:
        (place / "full").write_bytes(bytes(_MIB))
        assert not too_much(of(place)), "it takes a block of its own, which is none of the job's"
        (place / "full").unlink()
        assert too_much(of(grown(place, _MIB)))

    def test_a_sparse_file_counts_with_what_it_claims(self, place: Path) -> None:
        with (place / "sparse").open("wb") as file:
            file.truncate(1 << 40)
        assert too_much(of(place))

    @as_root
    def test_what_a_job_has_closed_to_us_is_too_much(self, public: Path) -> None:
        """Whoever may list a directory, but not enter it, is told no sizes."""
        (public / "closed").mkdir()
        (public / "closed" / "big").write_bytes(b"x")
        look = partial(_rounds, of(public), 0)
        for mode, verdict in ((0o755, False), (0o744, True), (0o700, True)):
            (public / "closed").chmod(mode)
            with as_another_user(look) as (_, seen):
                assert seen.decode() == f"[{verdict}]"

    @pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE])
    def test_a_fault_of_the_storage_may_pass_and_ends_no_keeper(
        self, place: Path, monkeypatch: pytest.MonkeyPatch, code: int
    ) -> None:
        for name in ("a", "b"):
            (place / name).touch()
        one = of(place)
        with faulty(monkeypatch, code):
            assert [too_much(one) for _ in range(5)] == [False] * 5
        assert not too_much(one)
        with faulty(monkeypatch, code):
            assert [too_much(one) for _ in range(6)] == [False] * 5 + [True]

    def test_what_vanishes_meanwhile_is_nothing(
        self, place: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (place / "a").touch()
        before = _open_now()
        with faulty(monkeypatch, errno.ENOENT):
            assert not any(too_much(of(place)) for _ in range(10))
        assert _open_now() == before


def test_a_directory_that_becomes_a_link_meanwhile_is_not_followed(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its being found and its being opened, which is the whole of the race."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "big").write_bytes(bytes(2 * _MIB))
    (place / "swapped").mkdir()

    def swap() -> None:
        (place / "swapped").rmdir()
        (place / "swapped").symlink_to(outside)

    _before_it_is_opened(monkeypatch, "swapped", swap)
    assert not too_much(of(place))
    assert (place / "swapped").is_symlink()


def test_a_parent_that_becomes_a_link_meanwhile_leads_nowhere_else(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    (outside / "below").mkdir(parents=True)
    (outside / "below" / "big").write_bytes(bytes(2 * _MIB))
    (place / "parent" / "below").mkdir(parents=True)

    def swap() -> None:
        (place / "parent").rename(place / "aside")
        (place / "parent").symlink_to(outside)

    _before_it_is_opened(monkeypatch, "below", swap)
    assert not too_much(of(place))
    assert (place / "parent").is_symlink()


class TestNameless:
    def test_counts_while_it_is_open(self, place: Path) -> None:
        with nameless(place, 2 * _MIB):
            assert not too_much(of(place))
            assert too_much(of(place), os.getpid())
        assert not too_much(of(place), os.getpid())

    def test_a_directory_that_is_open_or_that_somebody_is_in(self, place: Path) -> None:
        fd = os.open(grown(place / "left", _MIB), os.O_RDONLY)
        (place / "left").rmdir()
        assert too_much(of(place), os.getpid())
        source = (
            "import os, sys; os.fchdir(int(sys.argv[1])); os.close(int(sys.argv[1]))\n"
            "print('up', flush=True); sys.stdin.read()"
        )
        with running(source, str(fd), pass_fds=(fd,)) as job:
            os.close(fd)
            assert not too_much(of(place), os.getpid())
            assert too_much(of(place), job.pid)
        assert not too_much(of(place))

    def test_adds_up_with_what_has_a_name_and_counts_once(self, place: Path) -> None:
        (place / "named").write_bytes(bytes(_MIB // 2))
        with nameless(place, _MIB // 2) as file:
            copy = os.dup(file.fileno())
            assert not too_much(of(place), os.getpid(), os.getpid())
            (place / "more").write_bytes(b"x")
            assert too_much(of(place), os.getpid())
            os.close(copy)

    def test_one_that_has_another_name_yet_counts_by_that(self, place: Path) -> None:
        with (place / "one").open("wb") as file:
            file.write(bytes(_MIB * 3 // 4))
            (place / "other").hardlink_to(place / "one")
            (place / "one").unlink()
            assert not too_much(of(place), os.getpid())

    def test_what_lies_elsewhere_does_not_count(self, place: Path) -> None:
        fd = os.memfd_create("elsewhere")
        os.truncate(fd, 2 * _MIB)
        assert not too_much(of(place), os.getpid())
        os.close(fd)

    def test_one_that_another_process_holds(self, place: Path) -> None:
        source = (
            "import os, sys; f = open(sys.argv[1] + '/f', 'wb'); f.truncate(2 << 20)\n"
            "os.unlink(f.name); print('up', flush=True); sys.stdin.read()"
        )
        with running(source, str(place)) as job:
            assert job.pid in procfs.below(os.getpid())
            assert too_much(of(place), *procfs.below(os.getpid()))
        assert not too_much(of(place), *procfs.below(os.getpid()))

    def test_one_that_only_a_thread_with_files_of_its_own_holds(self, place: Path) -> None:
        opened, done = threading.Event(), threading.Event()

        def hold() -> None:
            assert ctypes.CDLL(None).unshare(0x400) == 0  # CLONE_FILES
            with nameless(place, 2 * _MIB):
                opened.set()
                done.wait()

        thread = threading.Thread(target=hold)
        thread.start()
        assert opened.wait(10)
        assert not prctl.share_files(os.getpid(), thread.native_id or 0)
        assert too_much(of(place), os.getpid())
        done.set()
        thread.join()

    def test_one_of_a_process_whose_first_thread_has_ended(self, place: Path) -> None:
        source = (
            "import ctypes, os, sys, threading\n"
            "f = open(sys.argv[1] + '/f', 'wb'); f.truncate(2 << 20); os.unlink(f.name)\n"
            "main = threading.main_thread().native_id\n"
            "def go_on():\n"
            "    status = f'/proc/self/task/{main}/stat'\n"
            "    while ') Z' not in open(status).read(): pass\n"
            "    print('up', flush=True); sys.stdin.read(); os._exit(0)\n"
            "threading.Thread(target=go_on).start()\n"
            "ctypes.CDLL(None).syscall(60 if os.uname().machine == 'x86_64' else 93, 0)"
        )
        with running(source, str(place)) as job:
            entry = procfs.process(job.pid)
            assert entry is not None
            assert entry.dead
            assert too_much(of(place), *procfs.below(os.getpid()))

    @as_root
    def test_one_of_such_a_process_seen_by_an_ordinary_user(self, public: Path) -> None:
        """To whom the open files of a thread that has ended are closed, and no others."""
        os.chown(public, 1001, 1001)
        with ExitStack() as held:

            def hold() -> bytes:
                held.enter_context(nameless(public, 2 * _MIB))
                return b"up"

            with as_another_user(hold, stays=True, first_ends=True) as (pid, said):
                assert said == b"up"
                entry = procfs.process(pid)
                assert entry is not None
                assert entry.dead
                with as_another_user(partial(_rounds, of(public), pid)) as (_, seen):
                    assert seen == b"[True]"
            with as_another_user(partial(_rounds, of(public), pid)) as (_, seen):
                assert seen == b"[False]"

    def test_many_processes_are_looked_at_in_steps(self, place: Path) -> None:
        nobody = [1 << 30] * 600
        assert list(of(place).round(lambda: nobody)) == [False, False]

    def test_too_many_open_files_to_look_at(
        self, place: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(disk, "MAX_DESCRIPTORS", 2)
        assert too_much(of(place), os.getpid())

    @as_root
    @pytest.mark.parametrize("confined", [True, False])
    def test_one_that_hides_its_files_for_long(self, confined: bool) -> None:
        """From an ordinary user, with whose number it runs and whom it lets see nothing."""
        with as_another_user(lambda: b"hidden", stays=True) as (pid, said):
            assert said == b"hidden"
            one = of(Path("/none"), confined=confined)
            look = partial(_rounds, one, pid, pid, pid)
            with as_another_user(look) as (_, seen):
                assert seen.decode() == f"[False, False, {confined}]"

    @as_root
    def test_one_that_hides_its_files_in_another_process_each_time(self) -> None:
        with ExitStack() as hidden:
            pids = [
                hidden.enter_context(as_another_user(lambda: b"", stays=True))[0] for _ in range(6)
            ]
            look = partial(_rounds, of(Path("/none")), *pids)
            with as_another_user(look) as (_, seen):
                assert seen.decode() == f"{[False] * 5 + [True]}"
            look = partial(_rounds, of(Path("/none")), *pids[:5], 0, *pids[:2])
            with as_another_user(look) as (_, seen):
                assert seen.decode() == f"{[False] * 8}"


def _before_it_is_opened(
    monkeypatch: pytest.MonkeyPatch, name: str, do: Callable[[], object]
) -> None:
    """``do`` just before the directory ``name`` is opened, by whichever call."""
    done: list[str] = []

    def wrapped(real: Any) -> Any:
        def call(path: Any, *args: Any, **kwargs: Any) -> Any:
            if not done and isinstance(path, str) and Path(path).name == name:
                done.append(name)
                do()
            return real(path, *args, **kwargs)

        return call

    monkeypatch.setattr(os, "open", wrapped(os.open))
    monkeypatch.setattr(os, "scandir", wrapped(os.scandir))


def _rounds(one: Disk, *pids: int) -> bytes:
    """A round for each of ``pids``, which sees that process alone; 0: none."""
    return repr([too_much(one, *([pid] if pid else [])) for pid in pids]).encode()


def _open_now() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
