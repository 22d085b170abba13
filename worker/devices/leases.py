"""Lease files: the node's truth about who holds a device.

A lease is an flock on an open file. Whoever has that open file (a keeper, and a native job that
inherited it) holds the lease; it ends when the last of them closes it, by whatever death. It is
never unlocked by LOCK_UN, which would end it for all of them, and its file is never deleted, so
that nobody can hold a lock on a file that has another's name.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
SUFFIX = ".lease"
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class LeaseFile:
    """One lease that this process holds."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd

    @classmethod
    def acquire(cls, directory: Path, name: str, record: Mapping[str, str | int]) -> Self | None:
        """Take the lease ``name`` in ``directory``, or None while anybody holds it.

        ``record`` is written into it, for people and for `read`.

        Raises:
            ValueError: ``name`` is no plain file name.
        """
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"lease name {name!r}: letters, digits, '.', '_' and '-', at most 200, "
                "beginning with a letter or digit"
            )
        path = directory / (name + SUFFIX)
        try:
            fd = os.open(path, _FLAGS, 0o600)
        except FileNotFoundError:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(path, _FLAGS, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Over what stood there, never truncated first: ext4 would write the file out at once.
            os.pwrite(fd, json.dumps(dict(record)).encode().ljust(os.fstat(fd).st_size), 0)
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        return cls(path, fd)

    @property
    def fd(self) -> int:
        """The open file, to be passed to a keeper; -1 once this process has closed it."""
        return self._fd

    def close(self) -> None:
        """Let go of this process's copy. Safe to call twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def held(path: Path) -> bool:
    """Whether anybody, this process included, holds the lease at ``path``.

    Looks by a shared lock for an instant, so that somebody who searches for holders can tell a
    look from a hold.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(fd)


def read(path: Path) -> dict[str, Any]:
    """What the last holder wrote; empty if there was none, or it was not done yet."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
