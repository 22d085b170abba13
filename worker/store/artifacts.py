"""What a job leaves: its output directory becomes the job's artefacts.

The directory's content is the job's work and is trusted in nothing: files are opened without
following links, from one directory to the next; only regular files with one name are kept.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Final

_MOST_FILES: Final = 10_000
_MOST_DEPTH: Final = 32
_BLOCK: Final = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """One file that a job left."""

    name: str
    """Its path beneath the output directory, with '/'."""
    size: int
    """Bytes."""
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Collected:
    """What was kept, and what was not."""

    directory: Path
    artifacts: tuple[Artifact, ...]
    refused: tuple[str, ...]
    """What was left out, and why; at most 20."""


def collect(output: Path, destination: Path, *, most_bytes: int) -> Collected:
    """Copy the regular files beneath ``output`` to ``destination``, which is replaced whole.

    ``most_bytes``: of all together; 0: no cap. A file that would exceed it is refused.
    """
    staging = destination.with_name(f".{destination.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True, mode=0o700)
    artifacts: list[Artifact] = []
    refused: list[str] = []
    left = most_bytes or None
    top = os.open(output, _DIRECTORY)
    try:
        for name, fd in _files(top, PurePosixPath(), refused):
            with os.fdopen(fd, "rb") as source:
                size = os.fstat(fd).st_size
                if left is not None and size > left:
                    refused.append(f"{name}: larger than what is left of the cap")
                    continue
                artifact = _copy(source, staging / name, str(name), size)
            artifacts.append(artifact)
            if left is not None:
                left -= artifact.size
    finally:
        os.close(top)
    shutil.rmtree(destination, ignore_errors=True)
    staging.rename(destination)
    return Collected(
        directory=destination,
        artifacts=tuple(sorted(artifacts, key=lambda one: one.name)),
        refused=tuple(refused[:20]),
    )


def _files(
    directory: int, at: PurePosixPath, refused: list[str]
) -> Iterator[tuple[PurePosixPath, int]]:
    """Name and open descriptor of each regular file; the caller closes it."""
    seen = 0
    for name in sorted(os.listdir(directory)):
        path = at / name
        if not _printable(name) or len(path.parts) > _MOST_DEPTH:
            refused.append(f"{path!s:.100}: an unusable name, or too deep")
            continue
        seen += 1
        if seen > _MOST_FILES:
            refused.append(f"{at}: more than {_MOST_FILES} entries in one directory")
            return
        about = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISDIR(about.st_mode):
            inner = os.open(name, _DIRECTORY, dir_fd=directory)
            try:
                yield from _files(inner, path, refused)
            finally:
                os.close(inner)
        elif stat.S_ISREG(about.st_mode):
            fd = os.open(name, _FILE, dir_fd=directory)
            opened = os.fstat(fd)
            if not stat.S_ISREG(opened.st_mode) or opened.st_nlink != 1:
                os.close(fd)
                refused.append(f"{path}: a hard link, or no regular file")
                continue
            yield path, fd
        else:
            refused.append(f"{path}: a link or special file")


def _copy(source: IO[bytes], target: Path, name: str, size: int) -> Artifact:
    """Copy at most ``size`` bytes: a file that still grows cannot exceed what was admitted."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, done = hashlib.sha256(), 0
    with target.open("xb") as out:
        while done < size:
            block = source.read(min(_BLOCK, size - done))
            if not block:
                break
            digest.update(block)
            out.write(block)
            done += len(block)
        out.flush()
        os.fsync(out.fileno())
    target.chmod(0o600)
    return Artifact(name=name, size=done, sha256=digest.hexdigest())


def _printable(name: str) -> bool:
    return name.isprintable() and name not in (".", "..")
