"""What a job's ``dataset_uri`` or ``code_uri`` names: parsed, and allowed here or not. Pure.

A pin is the URL's fragment: ``https://data.example.org/train.csv#sha256=<64 hex digits>``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from worker.store.refusals import DataRefused

_URL: Final = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]+):(?P<rest>.+)", re.DOTALL)
_PIN: Final = re.compile(r"sha256=(?P<hex>[0-9a-f]{64})")
_MOST_NAME: Final = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One place that data or code come from."""

    scheme: str
    url: str
    """Without its fragment; for ``file``, see `path`."""
    shown: str
    """For people: without password, query and fragment."""
    name: str
    """What a single file is called."""
    pin: str | None
    """SHA-256 in hex: of the file, or of the folder's manifest (`worker.store.trees`)."""

    @property
    def path(self) -> Path:
        """Of a ``file:`` URL."""
        return Path(unquote(urlsplit(self.url, allow_fragments=False).path))


def parse(field: str, uri: str, schemes: Sequence[str]) -> Source:
    """The source that ``field`` of a job names. Raises DataRefused."""
    match = _URL.fullmatch(uri)
    if match is None:
        raise DataRefused(f"{field} {uri!r}: is no URL with a scheme")
    scheme = match["scheme"]
    bare, _, fragment = uri.partition("#")
    shown = masked(bare)
    if scheme not in schemes:
        raise DataRefused(
            f"{field} {shown!r}: this node allows {', '.join(schemes) or 'no scheme'} "
            "(storage.schemes)",
            elsewhere=True,
        )
    pin = _PIN.fullmatch(fragment)
    if fragment and pin is None:
        raise DataRefused(
            f"{field} {shown!r}: the fragment {fragment[:80]!r} is none that is known; a pin is "
            "written #sha256= and 64 hex digits in lower case, and a '#' in a name %23"
        )
    if scheme == "builtin":
        return Source(
            scheme=scheme, url=bare, shown=shown, name="", pin=pin["hex"] if pin else None
        )
    if scheme == "file":
        _check_file(field, bare, shown)
    elif not match["rest"].startswith("//") or "::" in bare:
        # fsspec takes the one for a local path, and the other for one scheme round another
        raise DataRefused(f"{field} {shown!r}: write {scheme}://, the place and the path, no '::'")
    return Source(
        scheme=scheme,
        url=bare,
        shown=shown,
        name=_name(bare),
        pin=pin["hex"] if pin else None,
    )


def masked(url: str) -> str:
    """``url`` without user, password, query and fragment: they may be secrets."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return url.partition(":")[0] + ":…"
    slashes = "//" if url.startswith(f"{parts.scheme}://") else ""
    return f"{parts.scheme}:{slashes}{parts.netloc.rpartition('@')[2]}{parts.path}"


def _check_file(field: str, url: str, shown: str) -> None:
    parts = urlsplit(url, allow_fragments=False)
    if parts.netloc not in ("", "localhost"):
        raise DataRefused(f"{field} {shown!r}: a file URL names no host; write file:///path")
    if parts.query:
        raise DataRefused(f"{field} {shown!r}: a '?' in a file's name is written %3F")
    if not parts.path.startswith("/") or "\0" in unquote(parts.path):
        raise DataRefused(f"{field} {shown!r}: write file:// and an absolute path")


def _name(url: str) -> str:
    """The last part of the URL's path, if a file can be called so; else ``data``."""
    try:
        path = urlsplit(url, allow_fragments=False).path
    except ValueError:
        path = ""
    name = unquote(path.rstrip("/").rpartition("/")[2])
    usable = (
        name.isprintable()
        and name not in ("", ".", "..")
        and not set(name) & set("/\\")
        and len(name.encode(errors="surrogateescape")) <= _MOST_NAME
    )
    return name if usable else "data"
