"""A job's secrets: files in memory that its user alone can read, gone with the attempt.

Where they are stands in a note in the attempt's directory, written first: so whoever clears up
after the attempt, whatever died before, removes them. The values are nowhere else on the host.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

NOTE: Final = "secrets.json"


def write(state: Path, place: Path, values: Mapping[str, str], owner: tuple[int, int]) -> None:
    """One file for each secret in ``place``, a new directory on a file system in memory.

    ``state``: the attempt's directory. ``owner``: uid and gid of whoever may read them.

    Raises:
        OSError: they cannot be written, or ``place`` would be on a disk. `remove` takes away what
            there is by then.
    """
    partial = state / f".{NOTE}.partial"
    partial.write_text(json.dumps({"place": str(place)}))
    partial.replace(state / NOTE)
    _parent(place.parent)
    kind = file_system(place.parent)
    if kind != "tmpfs":
        raise OSError(
            errno.EINVAL,
            f"secrets would lie on a disk: {place.parent} is on {kind or 'nobody knows what'}, "
            "and a tmpfs is needed (trust.secrets_dir)",
        )
    place.mkdir(mode=0o700)
    for name, value in values.items():
        fd = os.open(place / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o400)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(value)
            _give(file.fileno(), 0o400, owner)
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        _give(fd, 0o500, owner)
    finally:
        os.close(fd)


def read(state: Path) -> dict[str, str]:
    """The secrets of the attempt in ``state``, by name; {} where it has none, or none any more.

    Raises OSError: there are some, and they cannot be read.
    """
    place = _noted(state)
    if place is None or not place.is_dir():
        return {}
    return {path.name: path.read_text(encoding="utf-8") for path in place.iterdir()}


def remove(state: Path) -> None:
    """Nothing is left of them. Safe to call again. Raises OSError: something could not go."""
    place = _noted(state)
    if place is None or not place.is_dir():
        return
    with contextlib.suppress(OSError):
        place.chmod(0o700)  # for a user other than root, who needs it to delete
    shutil.rmtree(place)


def file_system(path: Path) -> str:
    """The kind of file system that ``path`` is on, as the kernel names it; '' if nobody says."""
    about = path.stat().st_dev
    device = f"{os.major(about)}:{os.minor(about)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        if fields.split(" ")[2] == device:
            return rest.split(" ")[0]
    return ""


def _parent(path: Path) -> None:
    """Make the node's own directory for them, or see that it is what this one would make."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    there = path.lstat()
    if there.st_uid != os.geteuid() or there.st_mode & 0o170077 != 0o040000:
        raise OSError(
            errno.EPERM, f"{path} is not a directory of this node's user, closed to everybody else"
        )


def _give(fd: int, mode: int, owner: tuple[int, int]) -> None:
    os.fchmod(fd, mode)
    if os.geteuid() == 0:
        os.fchown(fd, *owner)


def _noted(state: Path) -> Path | None:
    try:
        return Path(json.loads((state / NOTE).read_bytes())["place"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # it was being written when the host went down: nothing was made either
