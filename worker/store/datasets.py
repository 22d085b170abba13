"""The data of a job: ``file:`` is read in place, everything else comes from the cache."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from worker.store.beneath import NotBeneath, Opened, open_beneath
from worker.store.cache import Entry
from worker.store.fetching import Fetcher
from worker.store.policy import Policy
from worker.store.refusals import DataRefused
from worker.store.send import TooLarge
from worker.store.sources import Source
from worker.store.trees import File, manifest_sha256
from worker.store.unpacking import ARCHIVES, Unpacker, kind_of, one_folder
from worker.store.walk import Walk

_BLOCK: Final = 1 << 20
_MOST_ENTRIES: Final = 1_000_000
_MB: Final = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """Where the data are."""

    path: Path
    """The file, or the folder."""
    entry: Entry | None = None
    """What keeps them in the cache; None where they are read in place."""


def data_of(
    source: Source,
    policy: Policy,
    fetcher: Fetcher,
    check: Callable[[], None] = lambda: None,
    unpacker: Unpacker | None = None,
) -> Data | None:
    """The data that ``source`` names; None where the job brings its own (builtin).

    ``unpacker``: what makes a folder of an archive that was fetched; None: it stays one.

    Raises DataRefused, DataUnavailable, NoRoom, and what ``check`` raises.
    """
    if source.scheme == "builtin":
        return None
    if source.scheme == "file":
        return _in_place(source, policy, check)
    fetched = fetcher.fetch(source)
    entry, data = fetched.entry, fetched.entry.data
    kind = None if fetched.folder or unpacker is None else kind_of(source.name, ARCHIVES)
    if kind is None or unpacker is None:
        return Data(path=data if fetched.folder else data / source.name, entry=entry)
    packed = entry.size  # which stays in the cache while it is unpacked
    most = max(0, policy.cap - packed)
    try:
        tree = unpacker.unpacked(entry, kind, most_bytes=most, most_files=_MOST_ENTRIES)
    except TooLarge as error:
        raise DataRefused(
            f"dataset_uri {source.shown!r}: unpacked, {error}; it may have {_MOST_ENTRIES} files, "
            f"and has to fit with the archive ({packed / _MB:,.1f} MiB) into this node's cache of "
            f"{policy.cap / _MB:,.1f} MiB (storage.cache_mb)",
            elsewhere=True,
        ) from None
    except DataRefused as error:
        raise DataRefused(f"dataset_uri {source.shown!r}: {error}") from None
    finally:
        entry.close()
    return Data(path=one_folder(tree.data), entry=tree)


def _in_place(source: Source, policy: Policy, check: Callable[[], None]) -> Data:
    try:
        opened = open_beneath(source.path, policy.roots)
    except NotBeneath:
        # one message for both: whether a path outside the roots exists is nobody's business
        raise DataRefused(
            f"dataset_uri {source.shown!r}: not there, or not beneath this node's storage.roots",
            elsewhere=True,
        ) from None
    with opened:
        if source.pin is not None:
            found = _sha256(opened, check)
            if found != source.pin:
                raise DataRefused(
                    f"dataset_uri {source.shown!r}: its SHA-256 is {found}, and the job's pin "
                    f"says {source.pin}"
                )
        return Data(path=opened.path)


def _sha256(opened: Opened, check: Callable[[], None]) -> str:
    """Of the file, or of the folder's manifest."""
    if not opened.is_dir:
        return _of_file(os.dup(opened.fd), check)[0]

    def refuse(what: str) -> None:
        raise DataRefused(f"dataset_uri: a folder with a pin has plain files only; {what}")

    files = [
        File(str(path), size, sha256)
        for path, fd in Walk(refuse, most_entries=_MOST_ENTRIES).files(opened.fd)
        for sha256, size in (_of_file(fd, check),)
    ]
    return manifest_sha256(tuple(sorted(files, key=lambda one: one.name.encode())))


def _of_file(fd: int, check: Callable[[], None]) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    with os.fdopen(fd, "rb") as file:
        while block := file.read(_BLOCK):
            check()
            digest.update(block)
            size += len(block)
    return digest.hexdigest(), size
