"""Goes through a directory that is trusted in nothing: each name is opened from the open directory
that it stands in, and no link is followed."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterator
from pathlib import PurePosixPath
from typing import Final

_MOST_DEPTH: Final = 32
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Walk:
    """One walk. What is left out goes to ``refuse``, with its name and why."""

    def __init__(
        self,
        refuse: Callable[[str], None],
        *,
        most_entries: int,
        link: Callable[[PurePosixPath, str], None] | None = None,
        skip: Collection[str] = (),
    ) -> None:
        """``most_entries``: of any kind, in all. ``link``: what to do with a symbolic link; without
        it, one is refused. ``skip``: names that are passed over in silence."""
        self._refuse = refuse
        self._left = self._most = most_entries
        self._link = link
        self._skip = skip

    def files(self, top: int) -> Iterator[tuple[PurePosixPath, int]]:
        """Name and open descriptor of each regular file; the caller closes it.

        ``top``: the open directory, which stays the caller's.
        """
        return self._beneath(top, PurePosixPath())

    def _beneath(self, top: int, at: PurePosixPath) -> Iterator[tuple[PurePosixPath, int]]:
        for name in self._names(top, at):
            path = at / name
            if name in self._skip:
                continue
            if not name.isprintable() or "\\" in name or len(path.parts) > _MOST_DEPTH:
                self._refuse(f"{str(path)[:200]!r}: an unusable name, or too deep")
                continue
            try:
                yield from self._one(top, name, path)
            except OSError as error:  # it is gone, or another kind of thing by now
                self._refuse(f"{path}: {error.strerror}")

    def _names(self, top: int, at: PurePosixPath) -> list[str]:
        names = []
        with os.scandir(top) as entries:
            for entry in entries:
                if self._left == 0:
                    self._refuse(f"{at}: more than {self._most} entries")
                    break
                self._left -= 1
                names.append(entry.name)
        return sorted(names)

    def _one(self, top: int, name: str, path: PurePosixPath) -> Iterator[tuple[PurePosixPath, int]]:
        mode = os.stat(name, dir_fd=top, follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            inner = os.open(name, _DIRECTORY, dir_fd=top)
            try:
                yield from self._beneath(inner, path)
            finally:
                os.close(inner)
        elif stat.S_ISREG(mode):
            fd = os.open(name, _FILE, dir_fd=top)
            if stat.S_ISREG(os.fstat(fd).st_mode):
                yield path, fd
            else:
                os.close(fd)
                self._refuse(f"{path}: no regular file")
        elif stat.S_ISLNK(mode) and self._link is not None:
            self._link(path, os.readlink(name, dir_fd=top))
        else:
            self._refuse(f"{path}: a link or special file")
