"""NVIDIA's container toolkit on this host: an engine's ``/info`` tells neither of a hook nor of a
version."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Final

_PROGRAMS: Final = ("nvidia-ctk", "nvidia-container-runtime-hook", "nvidia-container-toolkit")
_VERSION: Final = re.compile(r"version (\d+\.\d+(?:\.\d+)?)", re.IGNORECASE)
_WITHIN_S: Final = 5.0


def described(known: str) -> str:
    """Its version and what is ``known`` of it, as a word of it; '' where it is not there."""
    return " ".join(filter(None, (_version(), known)))


def _version() -> str:
    for name in _PROGRAMS:
        path = shutil.which(name)
        if path is None:
            continue
        try:
            return _said(path, Path(path).stat().st_mtime_ns)
        except (OSError, subprocess.TimeoutExpired, LookupError):
            continue  # what failed once is asked again
    return ""


@lru_cache(maxsize=8)
def _said(path: str, changed: int) -> str:
    """What a program says of its version; asked again when its file has ``changed``.

    Raises OSError, TimeoutExpired; LookupError: it says none.
    """
    done = subprocess.run(
        [path, "--version"], capture_output=True, text=True, timeout=_WITHIN_S, check=False
    )
    found = _VERSION.search(done.stdout + done.stderr)
    if found is None:
        raise LookupError(path)
    return found[1]
