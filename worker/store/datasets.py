"""Where a job's data lie on this node.

`file:` URLs are read in place, beneath the operator's roots only; the path is resolved first, so
neither ``..`` nor a symbolic link leads out of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit


class DataRefused(Exception):  # local to the node: the supervisor turns it into an outcome
    """The data cannot be given to the job; ``elsewhere``: another node may have them."""

    def __init__(self, message: str, *, elsewhere: bool) -> None:
        super().__init__(message)
        self.elsewhere = elsewhere


def locate(uri: str | None, roots: Sequence[Path], schemes: Sequence[str]) -> Path | None:
    """The file or directory that ``uri`` names; None where the job brings its own (builtin).

    Raises DataRefused: the scheme is not allowed, the path is outside the roots or not there.
    """
    if uri is None:
        return None
    parts = urlsplit(uri)
    if parts.scheme not in schemes:
        raise DataRefused(
            f"dataset_uri {uri!r}: this node allows {', '.join(schemes) or 'no scheme'} "
            "(storage.schemes)",
            elsewhere=True,
        )
    if parts.scheme == "builtin":
        return None
    if parts.scheme != "file":
        raise DataRefused(
            f"dataset_uri {uri!r}: this node cannot fetch {parts.scheme}: URLs", elsewhere=True
        )
    if parts.netloc not in ("", "localhost"):
        raise DataRefused(
            f"dataset_uri {uri!r}: a file URL names no host; write file:///path", elsewhere=False
        )
    return _beneath(Path(unquote(parts.path)), uri, roots)


def _beneath(path: Path, uri: str, roots: Sequence[Path]) -> Path:
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError):
        real = None
    allowed = [root.resolve() for root in roots]
    if real is None or not any(real.is_relative_to(root) for root in allowed):
        # one message for both: whether a path outside the roots exists is nobody's business
        raise DataRefused(
            f"dataset_uri {uri!r}: not there, or not beneath this node's storage.roots",
            elsewhere=True,
        )
    return real
