"""Opens what lies beneath a directory, and never anything else: no ``..``, no link, no race leads
out of it.

Links are resolved first, to see where the path really leads; what is found there is then opened
from the root without following any (openat2; without it, each part from the one before). So a link
that is put there between the two is not followed, and the open file is what was checked.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, Self

_OPENAT2: Final = 437
"""The same number on every architecture."""
_HOW: Final = struct.Struct("=QQQ")
_RESOLVE_NO_SYMLINKS: Final = 0x04
_RESOLVE_BENEATH: Final = 0x08
_PATH: Final = getattr(os, "O_PATH", os.O_RDONLY | os.O_NONBLOCK)
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_AGAIN: Final = 100
"""How often a rename elsewhere in the tree (EAGAIN) is put up with."""


class NotBeneath(Exception):
    """There is no such thing, or it is not beneath: which of the two is nobody's business."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A regular file or a directory, opened for reading. Close it, or use it as a context."""

    fd: int
    path: Path
    """Where it really is, without links."""
    is_dir: bool

    def close(self) -> None:
        os.close(self.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_beneath(path: Path, roots: Sequence[Path]) -> Opened:
    """``path``, beneath one of ``roots`` (or one of them itself).

    Raises NotBeneath: not there, elsewhere, not readable, or neither a file nor a directory.
    """
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError):
        raise NotBeneath(str(path)) from None
    for root in roots:
        top = root.resolve()
        if not real.is_relative_to(top):
            continue
        try:
            at = os.open(top, _DIRECTORY)
        except OSError:
            continue
        try:
            return _opened(resolve(at, PurePosixPath(real.relative_to(top))), real)
        except OSError:
            continue
        finally:
            os.close(at)
    raise NotBeneath(str(path))


def resolve(top: int, relative: PurePosixPath) -> int:
    """A descriptor of ``relative`` that names it without opening it (O_PATH).

    ``top``: an open directory, which the path does not leave. Raises OSError: it would, there is
    a link in it, or nothing is there.
    """
    if sys.platform.startswith("linux"):
        try:
            return _openat2(top, relative)
        except OSError as error:
            # EPERM: an old container engine's seccomp knows no openat2 and refuses it so
            if error.errno not in (errno.ENOSYS, errno.EPERM, errno.E2BIG):
                raise
    return _step_by_step(top, relative)


def _openat2(top: int, relative: PurePosixPath) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    how = _HOW.pack(_PATH | os.O_CLOEXEC, 0, _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS)
    for _ in range(_AGAIN):
        fd = libc.syscall(
            ctypes.c_long(_OPENAT2),
            ctypes.c_int(top),
            ctypes.c_char_p(os.fsencode(relative)),
            ctypes.c_char_p(how),
            ctypes.c_size_t(len(how)),
        )
        if fd >= 0:
            return int(fd)
        number = ctypes.get_errno()
        if number != errno.EAGAIN:
            break
    raise OSError(number, os.strerror(number), str(relative))


def _step_by_step(top: int, relative: PurePosixPath) -> int:
    here = os.dup(top)
    try:
        for part in relative.parts:
            if part == "..":
                raise OSError(errno.EXDEV, "a '..' in the path", str(relative))
            there = os.open(part, _PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
            os.close(here)
            here = there
            if stat.S_ISLNK(os.fstat(here).st_mode):
                raise OSError(errno.ELOOP, "a link in the path", str(relative))
    except BaseException:
        os.close(here)
        raise
    return here


def _opened(named: int, real: Path) -> Opened:
    """What the O_PATH descriptor ``named`` names, opened; takes the descriptor over."""
    try:
        mode = os.fstat(named).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # opening a device does something
            raise OSError(errno.EINVAL, "neither a file nor a directory")
        if not hasattr(os, "O_PATH"):
            return Opened(os.dup(named), real, stat.S_ISDIR(mode))
        fd = os.open(f"/proc/self/fd/{named}", os.O_RDONLY | os.O_CLOEXEC)
        return Opened(fd, real, stat.S_ISDIR(mode))
    finally:
        os.close(named)
