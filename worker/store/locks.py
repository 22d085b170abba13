"""Locks between the processes of a node: flock on an open file, ended by the holder's death.

A lock is never ended by LOCK_UN: an open file that was passed on to a keeper goes on to hold it.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

_AGAIN_S: Final = 0.02


class Held:
    """A lock that this process holds, with its open file."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.fd = fd
        """To be passed on; -1 once closed."""

    def close(self) -> None:
        """Let go of this process's copy. Safe to call twice."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def attempt(path: Path, *, create: bool = True) -> Held | None:
    """Take the lock, or None: somebody has it, or (``create`` False) there is no such file."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
    while True:
        try:
            fd = os.open(path, flags, 0o600)
        except FileNotFoundError:
            if create:
                raise
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        if _same(fd, path):  # else whoever had it has deleted or moved the file meanwhile
            return Held(path, fd)
        os.close(fd)


def wait(path: Path, check: Callable[[], None] = lambda: None) -> Held:
    """Take the lock, however long it takes. ``check`` is called while it waits, and may raise."""
    while (held := attempt(path)) is None:
        check()
        time.sleep(_AGAIN_S)
    return held


def _same(fd: int, path: Path) -> bool:
    try:
        there = path.lstat()
    except FileNotFoundError:
        return False
    here = os.fstat(fd)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
