"""The lock of an attempt's directory: held from before the keeper's birth until after its death.

Whoever starts an attempt takes it and passes the open file to the keeper; so "free" always means
that no keeper looks after the directory, and whoever settles it takes the lock first.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from worker.plan import AttemptId

LOCK_NAME = "keeper.lock"
_RETRY = 0.002
_BEGUN_WITHIN = 60.0
"""Seconds after which an attempt that nobody looks after will have no keeper any more. It is looked
after from the moment that its directory is there but for an instant."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KeeperRecord:
    """What a keeper writes into its lock."""

    attempt: AttemptId
    pid: int
    start: int
    """Clock ticks since boot at which the keeper started."""
    slot: str
    scratch: Path
    leases: tuple[Path, ...]
    job: int = 0
    """The pid of the job's main process; of a container as the host sees it. 0: not known."""


def take(directory: Path, patience: float = 1.0) -> int | None:
    """Take the lock of ``directory``: its descriptor, or None while somebody else has it.

    ``patience``: seconds to wait, since `alive` holds it for an instant.

    Raises:
        FileNotFoundError: there is no such directory (any more).
    """
    path = f"{directory}/{LOCK_NAME}"
    until = time.monotonic() + patience
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever settled the directory meanwhile has deleted the file that was opened here.
            if _same(fd, path):
                return fd
        except BlockingIOError:
            if time.monotonic() >= until:
                os.close(fd)
                return None
            time.sleep(_RETRY)
        os.close(fd)


def alive(directory: Path) -> bool:
    """Whether a keeper looks after ``directory`` (or somebody starts or settles one in it)."""
    try:
        fd = os.open(f"{directory}/{LOCK_NAME}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(fd)


def read(directory: Path) -> KeeperRecord | None:
    """What the keeper wrote; None if it did not come to that."""
    try:
        content = json.loads((directory / LOCK_NAME).read_bytes())
        return KeeperRecord(
            attempt=AttemptId(job_id=str(content["job_id"]), fence=int(content["fence"])),
            pid=int(content["pid"]),
            start=int(content["start"]),
            slot=str(content["slot"]),
            scratch=Path(content["scratch"]),
            leases=tuple(Path(lease) for lease in content["leases"]),
            job=int(content.get("job", 0)),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def abandoned(directory: Path) -> bool:
    """Whether somebody began an attempt in ``directory``, and died before it had a keeper."""
    try:
        age = time.time() - directory.stat().st_mtime
    except OSError:
        return False
    return age > _BEGUN_WITHIN and read(directory) is None and not alive(directory)


def _same(fd: int, path: str) -> bool:
    try:
        there = os.lstat(path)
    except FileNotFoundError:
        return False
    here = os.fstat(fd)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
