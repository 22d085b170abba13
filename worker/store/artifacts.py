"""What a job leaves: its output directory becomes the job's artefacts.

The directory's content is the job's work and is trusted in nothing: see `worker.store.walk`. Only
regular files with one name are kept.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Final

from worker.store.disk import require_free
from worker.store.durable import settle_on_disk
from worker.store.refusals import NoRoom
from worker.store.walk import Walk

_MOST_ENTRIES: Final = 100_000
_MOST_REFUSALS: Final = 20
_BLOCK: Final = 1 << 20
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """One file that a job left."""

    name: str
    """Its path beneath the output directory, with '/'."""
    size: int
    """Bytes."""
    sha256: str
    uri: str = ""
    """Where it is kept: ``file:`` on this node, or a URL of the artefact store."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Collected:
    """What was kept, and what was not."""

    directory: Path
    artifacts: tuple[Artifact, ...]
    refused: tuple[str, ...]
    """What was left out, and why; at most 20."""
    place: str = ""
    """Where all of them are: a directory of this node, or a URL; '' if there are none."""


def collect(
    output: Path,
    destination: Path,
    *,
    most_bytes: int,
    keep_free: int = 0,
    check: Callable[[], None] = lambda: None,
) -> Collected:
    """Copy the regular files beneath ``output`` to ``destination``, which is replaced whole.

    ``most_bytes``: of all together; 0: no cap. A file that would exceed it is refused.
    ``keep_free``: bytes of the destination's disk that stay free. ``check``: called for each file;
    raises to end it.

    Raises NoRoom; nothing is left half done then.
    """
    staging = destination.with_name(f".{destination.name}.partial")
    _clear(staging)
    with os.scandir(output) as entries:
        if next(entries, None) is None:  # as most commands leave it: nothing to copy, nor to sync
            _clear(destination)
            return Collected(directory=destination, artifacts=(), refused=())
    staging.mkdir(parents=True, mode=0o700)
    try:
        artifacts, refused = _copied(output, staging, most_bytes or None, keep_free, check)
        settle_on_disk(staging, [one.name for one in artifacts])
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoRoom(f"the disk of {destination.parent} is full") from None
        raise
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    shutil.rmtree(destination, ignore_errors=True)
    if artifacts:
        staging.rename(destination)
    else:
        shutil.rmtree(staging, ignore_errors=True)  # nothing to keep: no directory either
    return Collected(
        directory=destination,
        artifacts=tuple(
            replace(one, uri=(destination / one.name).as_uri())
            for one in sorted(artifacts, key=lambda one: one.name)
        ),
        refused=tuple(refused[:_MOST_REFUSALS]),
        place=str(destination) if artifacts else "",
    )


def _clear(directory: Path) -> None:
    """Most often there is nothing."""
    if os.path.lexists(directory):
        shutil.rmtree(directory, ignore_errors=True)


def _copied(
    output: Path, staging: Path, left: int | None, keep_free: int, check: Callable[[], None]
) -> tuple[list[Artifact], list[str]]:
    artifacts: list[Artifact] = []
    refused: list[str] = []

    def refuse(what: str) -> None:
        if len(refused) < _MOST_REFUSALS:
            refused.append(what)

    top = os.open(output, _DIRECTORY)
    try:
        for name, fd in Walk(refuse, most_entries=_MOST_ENTRIES).files(top):
            with os.fdopen(fd, "rb") as source:
                check()
                about = os.fstat(fd)
                if about.st_nlink != 1:
                    refuse(f"{name}: a hard link")
                    continue
                if left is not None and about.st_size > left:
                    refuse(f"{name}: larger than what is left of the cap")
                    continue
                require_free(staging, about.st_size, keep_free)
                artifact = _copy(source, staging / name, str(name), about.st_size)
            artifacts.append(artifact)
            if left is not None:
                left -= artifact.size
    finally:
        os.close(top)
    return artifacts, refused


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
    target.chmod(0o600)
    return Artifact(name=name, size=done, sha256=digest.hexdigest())
