"""The few calls of the kernel about processes that Python has no word for (Linux)."""

from __future__ import annotations

import ctypes
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38
_KCMP: Final = {"x86_64": 312, "aarch64": 272}
"""The number of the call that compares two processes, by machine."""
_KCMP_FILES: Final = 2

# Resolved at import: after a fork there is no time, and no room for a failure, to look it up.
_libc = ctypes.CDLL(None, use_errno=True)
_prctl = _libc.prctl
_prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
_prctl.restype = ctypes.c_int


def _call(option: int, argument: int) -> None:
    if _prctl(option, argument, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


def die_with_parent(number: int) -> None:
    """Get signal ``number`` when the thread that forked this process ends."""
    _call(_PR_SET_PDEATHSIG, number)


def adopt_orphans() -> None:
    """Descendants whose parent ends become this process's children, not init's."""
    _call(_PR_SET_CHILD_SUBREAPER, 1)


def no_new_privileges() -> None:
    """No set-uid program gains anything from here on, in any descendant."""
    _call(_PR_SET_NO_NEW_PRIVS, 1)


def set_name(name: str) -> None:
    """The name that ps and top show, at most 15 bytes."""
    buffer = ctypes.create_string_buffer(name.encode()[:15])
    _prctl(_PR_SET_NAME, ctypes.addressof(buffer), 0, 0, 0)


def share_files(one: int, other: int) -> bool:
    """Two threads have the same open files. False also where the kernel does not say."""
    number = _KCMP.get(os.uname().machine)
    return number is not None and _libc.syscall(number, one, other, _KCMP_FILES, 0, 0) == 0
