"""Gives the files of an earlier attempt to the user that the next one runs as."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

_OPEN: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def give_tree(top: Path, uid: int, gid: int) -> None:
    """Make ``uid`` the owner of the directories and regular files beneath ``top``, if they are the
    node's own: a native attempt wrote them as the node's user. For root, while no job runs there.

    No link is followed, and what has a second name, or is of any other kind, is left as it is.
    """
    for _, directories, files, here in os.fwalk(top, follow_symlinks=False):
        for name in (*directories, *files):
            there = os.stat(name, dir_fd=here, follow_symlinks=False)
            plain = stat.S_ISDIR(there.st_mode) or (
                stat.S_ISREG(there.st_mode) and there.st_nlink == 1
            )
            if not plain or there.st_uid != os.geteuid():
                continue
            opened = os.open(name, _OPEN, dir_fd=here)
            try:
                os.fchown(opened, uid, gid)
            finally:
                os.close(opened)
