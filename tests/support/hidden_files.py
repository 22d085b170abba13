"""Files that are hard to see, processes that hold them, and storage at fault."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from worker.keeper import procfs

_KEEP_SIZE = 1
_SET_DUMPABLE = 4


@contextmanager
def faulty(monkeypatch: pytest.MonkeyPatch, code: int) -> Iterator[None]:
    """Storage on which a directory breaks off after its first entry."""
    real = os.scandir

    def scandir(path: Any) -> Iterator[os.DirEntry[str]]:
        yield next(real(path))
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as changed:
        changed.setattr(os, "scandir", scandir)
        yield


def reserve(fd: int, size: int) -> None:
    """Room on the disk, without the file's becoming larger."""
    libc = ctypes.CDLL(None, use_errno=True)
    done = libc.fallocate(fd, _KEEP_SIZE, ctypes.c_long(0), ctypes.c_long(size))
    if done != 0:
        pytest.skip(f"this file system reserves nothing: {os.strerror(ctypes.get_errno())}")


def grown(directory: Path, size: int) -> Path:
    """A new directory that takes more than ``size`` bytes, and has nothing in it any more."""
    directory.mkdir(exist_ok=True)
    names = [directory / f"{number:0>250}" for number in range(size // 200)]
    for name in names:
        name.touch()
    for name in names:
        name.unlink()
    if directory.stat().st_blocks * 512 <= size:
        pytest.skip("this file system takes back what an empty directory had")
    return directory


@contextmanager
def nameless(place: Path, size: int) -> Iterator[IO[bytes]]:
    """An open file that has no name any more."""
    with (place / "nameless").open("wb") as file:
        file.truncate(size)
        (place / "nameless").unlink()
        yield file


@contextmanager
def running(
    source: str, *argv: str, pass_fds: Sequence[int] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """A Python program that says "up", and ends when nobody writes to it any more."""
    with subprocess.Popen(
        [sys.executable, "-S", "-c", source, *argv],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=pass_fds,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        yield process
        process.communicate()


@contextmanager
def as_another_user(
    do: Callable[[], bytes], *, stays: bool = False, first_ends: bool = False
) -> Iterator[tuple[int, bytes]]:
    """A process that has become another user, so that the kernel shows its files to root alone:
    its pid, and what ``do`` says in it. ``stays``: until the end, else it has ended.
    ``first_ends``: shows them to that user as well, and its first thread has ended."""
    said, says = os.pipe()
    stay, go = os.pipe()
    pid = os.fork()
    if pid == 0:

        def live() -> None:
            try:
                while first_ends and not getattr(procfs.process(os.getpid()), "dead", False):
                    pass
                os.write(says, do())
                os.close(says)
                os.read(stay, 1)
            finally:
                os._exit(0)

        try:
            os.close(go)
            os.setgroups([])
            os.setgid(1001)
            os.setuid(1001)
            if first_ends:
                libc = ctypes.CDLL(None)
                assert libc.prctl(_SET_DUMPABLE, 1) == 0
                threading.Thread(target=live).start()
                libc.syscall(60 if os.uname().machine == "x86_64" else 93, 0)
            live()
        finally:
            os._exit(1)
    os.close(says)
    os.close(stay)
    if not stays:
        os.close(go)
    with os.fdopen(said, "rb") as reader:
        yield pid, reader.read()
    if stays:
        os.close(go)
    os.waitpid(pid, 0)
