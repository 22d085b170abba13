"""A tree of files that is written once, hashed while it is written, and then read-only.

Its manifest has a line for each file, ``<sha256>  <name>``, sorted by name as bytes: what
``sha256sum`` prints. The manifest's SHA-256 names the tree, and is the pin of a folder.

A tree has regular files only. A link in what it is made from becomes the file that it leads to,
if that is in the tree; there is never a link on disk that could be followed.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final, Protocol

from worker.store.durable import settle_on_disk

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_BLOCK: Final = 1 << 20
_SYNC_EVERY: Final = 256 << 20
_MOST_DEPTH: Final = 64
_MOST_PATH: Final = 1024
_MOST_PART: Final = 255
_MOST_HOPS: Final = 16
"""Links that lead to links."""


class Unsafe(Exception):
    """A name or a link that must not be."""


class TooMuch(Exception):
    """More bytes or files than are allowed."""


class Readable(Protocol):
    """What a file's content is read from."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class File:
    """One file of a tree."""

    name: str
    """Its path in the tree, with '/'."""
    size: int
    """Bytes."""
    sha256: str


@dataclass(frozen=True, slots=True)
class Tree:
    """A finished tree."""

    files: tuple[File, ...]
    """Sorted by name as bytes."""
    sha256: str
    """Of the manifest."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(one.size for one in self.files)


def manifest_sha256(files: tuple[File, ...]) -> str:
    """What names a tree of these files, which are sorted."""
    digest = hashlib.sha256()
    for one in files:
        digest.update(f"{one.sha256}  {one.name}\n".encode())
    return digest.hexdigest()


def of_one(name: str, sha256: str) -> str:
    """What names a tree that has this one file."""
    return manifest_sha256((File(name, 0, sha256),))


def is_sha256(name: str) -> bool:
    """What files of checkpoints are called in a store."""
    return _SHA256.fullmatch(name) is not None


def checked_name(name: str) -> str:
    """``name`` as a path in a tree, tidied. Raises Unsafe."""
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts or not parts:
        raise Unsafe(f"{name[:200]!r} is no path inside the tree")
    if not name.isprintable() or "\\" in name:
        raise Unsafe(f"{name[:200]!r} has characters that no name may have")
    tidy = "/".join(parts)
    if len(parts) > _MOST_DEPTH or len(tidy.encode()) > _MOST_PATH:
        raise Unsafe(f"{name[:200]!r} is too deep or too long")
    if any(len(part.encode()) > _MOST_PART for part in parts):
        raise Unsafe(f"{name[:200]!r} has a part that is too long")
    return tidy


class Writer:
    """Writes a tree into an empty directory that nobody else writes to."""

    def __init__(
        self,
        target: Path,
        *,
        most_bytes: int | None = None,
        most_files: int | None = None,
        wrote: Callable[[int], None] = lambda total: None,
    ) -> None:
        """``wrote``: told the bytes of all files before each block is written; may raise."""
        self._target = target
        self._most_bytes = most_bytes
        self._most_files = most_files
        self._wrote = wrote
        self._files: dict[str, File] = {}
        self._links: dict[str, str] = {}
        self._bytes = 0

    def file(self, name: str, source: Readable, *, executable: bool = False) -> File:
        """Write one file. Raises Unsafe, TooMuch."""
        name = self._new(name)
        digest, size, unsynced = hashlib.sha256(), 0, 0
        with self._create(name) as out:
            while block := source.read(_BLOCK):
                size += len(block)
                self._count(len(block))
                digest.update(block)
                out.write(block)
                unsynced += len(block)
                if unsynced >= _SYNC_EVERY:  # or the end would wait for all of it
                    os.fdatasync(out.fileno())
                    unsynced = 0
            out.flush()
            os.fchmod(out.fileno(), 0o555 if executable else 0o444)
        self._files[name] = File(name, size, digest.hexdigest())
        return self._files[name]

    def link(self, name: str, target: str, *, from_top: bool = False) -> None:
        """A link: at the end it becomes what it leads to. Raises Unsafe, TooMuch.

        ``from_top``: ``target`` is relative to the tree, not to where the link stands.
        """
        name = self._new(name)
        at = "" if from_top else posixpath.dirname(name)
        leads = posixpath.normpath(posixpath.join(at, target))
        if target.startswith("/") or leads == ".." or leads.startswith("../") or leads == ".":
            raise Unsafe(f"the link {name!r} leads to {target[:200]!r}, outside the tree")
        self._links[name] = leads

    def finish(self) -> Tree:
        """Settle the links, make everything read-only and durable. Raises Unsafe, TooMuch."""
        self._settle_links()
        files = tuple(sorted(self._files.values(), key=lambda one: one.name.encode()))
        for directory, _, _ in os.walk(self._target, topdown=False):
            Path(directory).chmod(0o555)
        settle_on_disk(self._target, [one.name for one in files])
        return Tree(files, manifest_sha256(files))

    def _new(self, name: str) -> str:
        name = checked_name(name)
        if name in self._files or name in self._links:
            raise Unsafe(f"{name!r} is there twice")
        count = len(self._files) + len(self._links) + 1
        if self._most_files is not None and count > self._most_files:
            raise TooMuch(f"more than {self._most_files} files")
        return name

    def _count(self, more: int) -> None:
        self._bytes += more
        if self._most_bytes is not None and self._bytes > self._most_bytes:
            raise TooMuch(f"more than {self._most_bytes / (1 << 20):g} MiB")
        self._wrote(self._bytes)

    def _create(self, name: str) -> BinaryIO:
        path = self._target / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            return path.open("xb")
        except (FileExistsError, NotADirectoryError):
            raise Unsafe(f"{name!r} is a file and a directory at once") from None

    def _settle_links(self) -> None:
        """Each link becomes the file, or the files beneath the directory, that it leads to."""
        for link in self._links:
            if any(name.startswith(f"{link}/") for name in (*self._files, *self._links)):
                raise Unsafe(f"{link!r} is a link and a directory at once")
        for _ in range(_MOST_HOPS):
            for link, leads in sorted(self._links.items()):
                if leads in self._files:
                    self._same(link, leads)
                    del self._links[link]
                    continue
                beneath = [name for name in self._files if name.startswith(f"{leads}/")]
                pending = any(
                    other != link and (other == leads or other.startswith(f"{leads}/"))
                    for other in self._links
                )
                if beneath and not pending and not f"{link}/".startswith(f"{leads}/"):
                    for name in beneath:
                        self._same(f"{link}{name.removeprefix(leads)}", name)
                    del self._links[link]
        for link, leads in self._links.items():
            raise Unsafe(f"the link {link!r} leads to {leads[:200]!r}, which is not in the tree")

    def _same(self, link: str, name: str) -> None:
        """The file ``name`` under the name ``link``, too."""
        link = checked_name(link)
        if link in self._files:
            raise Unsafe(f"{link!r} is there twice")
        if self._most_files is not None and len(self._files) >= self._most_files:
            raise TooMuch(f"more than {self._most_files} files")
        file = self._files[name]
        path = self._target / link
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.hardlink_to(self._target / name)
        except (FileExistsError, NotADirectoryError):
            raise Unsafe(f"{link!r} is a file and a directory at once") from None
        self._files[link] = File(link, file.size, file.sha256)
