"""What a container's user needs to open device nodes of the host, such as ``/dev/kfd``."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path


class NodeUnusable(OSError):
    """A device node that no job can be given; the message says why and what to do."""


def groups_for(nodes: Iterable[str], user: int) -> tuple[int, ...]:
    """The groups, beside its own, that a process of ``user`` needs to open these nodes.

    Raises NodeUnusable.
    """
    return tuple(sorted({group for node in nodes for group in _needed(node, user)}))


def _needed(node: str, user: int) -> tuple[int, ...]:
    try:
        seen = Path(node).stat()
    except OSError as error:
        raise NodeUnusable(f"{node}: {error.strerror}: is the driver loaded?") from error
    if not stat.S_ISCHR(seen.st_mode):
        raise NodeUnusable(f"{node} is no device node")
    if _both(seen.st_mode, stat.S_IROTH, stat.S_IWOTH):
        return ()
    if seen.st_uid == user and _both(seen.st_mode, stat.S_IRUSR, stat.S_IWUSR):
        return ()
    if seen.st_gid != 0 and _both(seen.st_mode, stat.S_IRGRP, stat.S_IWGRP):
        return (seen.st_gid,)
    raise NodeUnusable(
        f"{node} is for root alone, and no job gets root's group: give it a group of its own, such "
        'as render, by a udev rule: KERNEL=="kfd", GROUP="render", MODE="0660"'
    )


def _both(mode: int, read: int, write: int) -> bool:
    return bool(mode & read) and bool(mode & write)
