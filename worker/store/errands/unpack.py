"""Unpacks an archive of code into a tree. Its author may wish the node ill.

Only names, contents and the executable bit are taken over: no owner, no set-uid bit, no device, no
absolute path, nothing that leads out of the tree; and no more bytes or files than are allowed,
whatever the archive says of itself.
"""

from __future__ import annotations

import lzma
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any, Final

from worker.store.errands import bundle
from worker.store.errands.fetch import tree_of
from worker.store.errands.talk import Talk, Wrong
from worker.store.trees import TooMuch, Unsafe, Writer

_BROKEN: Final = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError,
    NotImplementedError, RuntimeError, UnicodeError,
)  # fmt: skip
_MOST_LINK: Final = 4096
_UNIX: Final = 3


def unpack(request: dict[str, Any], talk: Talk) -> dict[str, Any]:
    """``archive``, ``kind`` (zip, tar, bundle), ``into``, ``temporary``, ``room``, ``most_files``,
    ``most_bytes``."""
    talk.room(int(request["room"]))
    most_files = int(request["most_files"])
    archive = Path(request["archive"])
    writer = Writer(
        Path(request["into"]),
        most_bytes=int(request["most_bytes"]),
        most_files=most_files,
        wrote=talk.at,
    )
    try:
        match request["kind"]:
            case "zip":
                _zip(archive, writer, most_files)
            case "tar":
                _tar(archive, writer, most_files)
            case _:
                bundle.read(archive, Path(request["temporary"]), writer, int(request["most_bytes"]))
    except _BROKEN as error:
        raise Wrong(
            f"cannot be read as a {request['kind']}: {error or type(error).__name__}"
        ) from None
    return tree_of(writer.finish())


def _zip(archive: Path, writer: Writer, most_files: int) -> None:
    with zipfile.ZipFile(archive) as opened:
        members = opened.infolist()
        if len(members) > _most_members(most_files):
            raise TooMuch(f"more than {_most_members(most_files)} entries")
        for member in members:
            mode = member.external_attr >> 16 if member.create_system == _UNIX else 0
            if member.flag_bits & 1:
                raise Unsafe(f"{member.filename!r} is encrypted")
            if member.is_dir() or stat.S_ISDIR(mode):
                continue
            if stat.S_ISLNK(mode):
                with opened.open(member) as source:
                    target = source.read(_MOST_LINK + 1)
                writer.link(member.filename, _target(member.filename, target))
            elif stat.S_IFMT(mode) in (0, stat.S_IFREG):
                with opened.open(member) as source:
                    writer.file(member.filename, source, executable=bool(mode & 0o100))
            else:
                raise Unsafe(f"{member.filename!r} is neither a file nor a directory nor a link")


def _tar(archive: Path, writer: Writer, most_files: int) -> None:
    with archive.open("rb") as raw, tarfile.open(fileobj=raw, mode="r|*") as opened:
        for number, member in enumerate(opened):
            if number >= _most_members(most_files):
                raise TooMuch(f"more than {_most_members(most_files)} entries")
            if member.isdir():
                continue
            if member.issym():
                writer.link(member.name, member.linkname)
            elif member.islnk():
                writer.link(member.name, member.linkname, from_top=True)
            elif member.isreg():
                source = opened.extractfile(member)
                assert source is not None  # noqa: S101 - a regular file has one
                writer.file(member.name, source, executable=bool(member.mode & 0o100))
            else:
                raise Unsafe(f"{member.name!r} is neither a file nor a directory nor a link")


def _target(name: str, target: bytes) -> str:
    if len(target) > _MOST_LINK:
        raise Unsafe(f"the link {name!r} is too long")
    return target.decode()


def _most_members(most_files: int) -> int:
    """Directories and links count as well: a million empty ones pack into next to nothing."""
    return 4 * most_files + 1000
