"""Puts files to a URL, and reads them back to see that they arrived."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Any, Final

from worker.store.errands.remote import Place, tried
from worker.store.errands.talk import Talk, Unavailable, Wrong
from worker.store.trees import is_sha256

_BLOCK: Final = 1 << 20


def upload(request: dict[str, Any], talk: Talk) -> dict[str, Any]:
    """``scheme``, ``url``, ``options``, ``from`` (a directory) and ``files``: name, size, sha256.
    With ``by_content`` a name says what is in the file, so that one which is there is not put
    again; ``remove``: such names, of files that go once all are there.

    Answers with the URL of each file.
    """
    for name in request.get("remove", ()):
        if not is_sha256(name):
            raise Wrong(f"{name[:200]!r} is not removed: it is no SHA-256")
    from fsspec.callbacks import Callback

    place = Place(request["scheme"], request["url"], request["options"])
    total = 0

    class Moved(Callback):  # type: ignore[misc]  # fsspec has no types
        def relative_update(self, inc: int = 1) -> None:
            nonlocal total
            total += inc
            talk.moved(total)

    uris = []
    for name, size, sha256 in request["files"]:
        path = place.join(*name.split("/"))
        with contextlib.suppress(Exception):  # object stores have no folders; the put tells more
            place.fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        if request.get("by_content") and _is_there(place, path, name, (size, sha256), talk):
            uris.append(place.fs.unstrip_protocol(path))
            continue
        local = str(Path(request["from"]) / name)
        tried(place.shown, lambda: place.fs.put_file(local, path, callback=Moved()))  # noqa: B023
        total = _verify(place, path, name, (size, sha256), total, talk)
        uris.append(place.fs.unstrip_protocol(path))
    for name in request.get("remove", ()):
        with contextlib.suppress(Exception):  # it may be gone, and the next one tries again
            place.fs.rm(place.join(name))
    return {"uris": uris}


def _is_there(place: Place, path: str, name: str, wanted: tuple[int, str], talk: Talk) -> bool:
    """Whether an earlier errand has put it there."""
    try:
        if place.fs.info(path).get("size") == wanted[0]:
            _verify(place, path, name, wanted, 0, talk)
            return True
    except Exception:  # each file system has errors of its own; it is put, which tells more
        return False
    return False


def _verify(
    place: Place, path: str, name: str, wanted: tuple[int, str], total: int, talk: Talk
) -> int:
    """Raises Unavailable: what is there is not what was put there."""
    place.fs.invalidate_cache()
    digest, size = hashlib.sha256(), 0
    with tried(place.shown, lambda: place.fs.open(path, "rb")) as source:
        while block := tried(place.shown, lambda: source.read(_BLOCK)):
            digest.update(block)
            size += len(block)
            talk.moved(total + size)
    if (size, digest.hexdigest()) != wanted:
        raise Unavailable(
            f"{place.shown}: {name} came back with {size} bytes and SHA-256 {digest.hexdigest()}, "
            f"not with {wanted[0]} and {wanted[1]}"
        )
    return total + size
