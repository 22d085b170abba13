"""Brings a snapshot of checkpoints from a store, or removes all that a job has there."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any, Final

from worker.store.durable import settle_on_disk
from worker.store.errands.remote import Place, tried
from worker.store.errands.talk import Talk, Wrong
from worker.store.trees import TooMuch, checked_name

_BLOCK: Final = 1 << 20
_MOST_LIST: Final = 4 << 20
"""Bytes of a list of files."""
_MOST_REMOVED: Final = 1_000_000
"""More go with their folder."""


def bring(request: dict[str, Any], talk: Talk) -> dict[str, Any]:
    """``scheme``, ``url``, ``options``, ``listing`` (SHA-256), ``into`` (an empty directory),
    ``most_bytes``.

    Every file is compared; what is not as it was sent is Wrong. The files are the caller's alone.
    """
    place = Place(request["scheme"], request["url"], request["options"])
    into, listing = Path(request["into"]), str(request["listing"])
    text = b"".join(_blocks(place, listing, listing, _MOST_LIST, talk, 0))
    files = [
        (checked_name(name), int(size), str(sha256)) for name, size, sha256 in json.loads(text)
    ]
    total = sum(size for _, size, _ in files)
    if total > int(request["most_bytes"]):
        raise TooMuch(f"{place.shown}: {total / (1 << 20):,.1f} MiB")
    done = 0
    for name, size, sha256 in files:
        path = into / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as out:
            for block in _blocks(place, sha256, sha256, size, talk, done):
                out.write(block)
                done += len(block)
    settle_on_disk(into, [name for name, _, _ in files])
    return {"files": len(files), "bytes": total}


def remove(request: dict[str, Any], talk: Talk) -> dict[str, Any]:
    """``scheme``, ``url``, ``options``: everything beneath; nothing there is no error.

    One after the other, since many at once may seem to stand still.
    """
    place = Place(request["scheme"], request["url"], request["options"])
    if not tried(place.shown, lambda: place.fs.exists(place.path)):
        return {}
    for done, one in enumerate(place.files(_MOST_REMOVED)[0]):
        talk.moved(done)
        path = one.path
        tried(place.shown, lambda: _remove_file(place, path))  # noqa: B023 - called at once
    place.fs.invalidate_cache()
    # folders, where the store has them
    if tried(place.shown, lambda: place.fs.exists(place.path)):
        tried(place.shown, lambda: place.fs.rm(place.path, recursive=True))
    return {}


def _remove_file(place: Place, path: str) -> None:
    with contextlib.suppress(FileNotFoundError):  # another node removes it too
        place.fs.rm(path)


def _blocks(place: Place, name: str, sha256: str, most: int, talk: Talk, before: int) -> Any:
    """The file in blocks; the last one only if all of them are what they should be."""
    digest, size = hashlib.sha256(), 0
    with tried(place.shown, lambda: place.fs.open(place.join(name), "rb")) as source:
        while block := tried(place.shown, lambda: source.read(_BLOCK)):
            digest.update(block)
            size += len(block)
            if size > most:
                raise Wrong(f"{place.shown}: {name} has more than {most} bytes")
            talk.moved(before + size)
            yield block
    if digest.hexdigest() != sha256:
        raise Wrong(f"{place.shown}: {name} is not what was sent: {size} bytes")
