"""fsspec, as an errand uses it: the URL's one scheme, and what the operator says of it."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from worker.store.errands import guard
from worker.store.errands.talk import Unavailable, Wrong
from worker.store.sources import masked

_HTTP: Final = ("http", "https")
_MARKS: Final = (
    "ETag", "etag", "Content-MD5", "Digest", "Last-Modified", "LastModified", "last_modified",
    "mtime", "modified", "updated", "md5", "md5Hash", "md5_hash", "content_md5", "checksum",
    "generation", "VersionId", "version_id", "sha",
)  # fmt: skip
"""Of what a file system says of a file: what changes when the file does."""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Remote:
    """One file."""

    path: str
    """As the file system calls it."""
    name: str
    """Relative to the folder; of a single file, ''."""
    size: int | None
    token: str
    """Another one if the content is another; '' where nothing tells."""


class Place:
    """A URL's file system."""

    def __init__(self, scheme: str, url: str, options: Mapping[str, Any]) -> None:
        self._http = scheme in _HTTP
        self.shown = masked(url)
        kind = tried(self.shown, lambda: _class(scheme))
        # what the operator says wins over what the URL says
        given = {**kind._get_kwargs_from_urls(url), **options}  # noqa: SLF001 - fsspec's own way
        if self._http:
            given["client_kwargs"] = {"timeout": _no_total(), **given.get("client_kwargs", {})}
        self.fs: Any = tried(self.shown, lambda: kind(skip_instance_cache=True, **given))
        self.path: str = kind._strip_protocol(url)  # noqa: SLF001 - fsspec's own way

    def files(self, most: int) -> tuple[list[Remote], bool]:
        """What is there, and whether it is a folder. At most ``most`` files, and one more."""
        info = tried(self.shown, lambda: self.fs.info(self.path))
        if self._http or info.get("type") != "directory":
            return [self._remote(self.path, "", info)], False
        found = tried(self.shown, lambda: self.fs.find(self.path, detail=True))
        top = self.path.rstrip("/") + "/"
        remotes = []
        for path, about in sorted(found.items()):
            if not str(path).startswith(top):
                raise Unavailable(f"{self.shown}: lists {path!r}, which is not in it")
            if about.get("type") == "file":
                remotes.append(self._remote(path, str(path).removeprefix(top), about))
            if len(remotes) > most:
                break
        return remotes, True

    def read(self, remote: Remote) -> Any:
        """The file, open for reading."""
        more = {"block_size": 0} if self._http else {}  # as one stream, not in ranges
        return tried(self.shown, lambda: self.fs.open(remote.path, "rb", **more))

    def join(self, *names: str) -> str:
        """A path beneath this place."""
        return posixpath.join(self.path, *names)

    def _remote(self, path: str, name: str, about: Mapping[str, Any]) -> Remote:
        size = about.get("size")
        marks = {one: str(about[one]) for one in _MARKS if about.get(one)}
        token = json.dumps([size, marks], sort_keys=True) if marks else ""
        return Remote(path, name, int(size) if size is not None else None, token)


def tried(shown: str, what: Callable[[], _T]) -> _T:
    """``what()``; whatever a file system raises becomes Unavailable, with the place in it."""
    try:
        return what()
    except Unavailable:
        raise
    except Exception as error:  # each file system has errors of its own
        if guard.refusals:
            raise Wrong(f"{shown}: {guard.refusals[-1]}") from None
        if isinstance(error, FileNotFoundError) and error.__cause__ is None:
            # with a cause, it is what fsspec says of a server that cannot be reached
            raise Unavailable(f"{shown}: there is no such thing") from None
        raise Unavailable(f"{shown}: {why(error)}") from error


def why(error: BaseException) -> str:
    """What went wrong, for people: the last cause says it best, and no URL's query is told."""
    while error.__cause__ is not None:
        error = error.__cause__
    inner = getattr(error, "os_error", None)  # aiohttp wraps it so
    if isinstance(inner, OSError):
        error = inner
    said = str(getattr(error, "strerror", None) or error) or type(error).__name__
    status = getattr(error, "status", None)
    if isinstance(status, int):
        said = f"the server answered {status} {getattr(error, 'message', '')}".rstrip()
    return said.partition("?")[0][:500]


def _class(scheme: str) -> Any:
    try:
        import fsspec
    except ImportError:
        raise Unavailable("this node has no fsspec: install the extra `node`") from None
    try:
        return fsspec.get_filesystem_class(scheme)
    except ValueError:
        raise Unavailable(f"fsspec knows no {scheme}: URLs") from None


def _no_total() -> Any:
    """aiohttp gives up after five minutes in all; here, standing still is what counts."""
    import aiohttp

    return aiohttp.ClientTimeout(total=None, sock_connect=30)
