"""Fetches one URL, a file or a folder, into a tree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from worker.store.errands.remote import Place, Remote, tried
from worker.store.errands.talk import Talk, Unavailable
from worker.store.trees import TooMuch, Tree, Writer


class _Told:
    """A remote file that is read through, and whose errors are told as the source's."""

    def __init__(self, place: Place, remote: Remote) -> None:
        self._place = place
        self._file = place.read(remote)

    def read(self, size: int) -> bytes:
        return bytes(tried(self._place.shown, lambda: self._file.read(size)))

    def close(self) -> None:
        self._file.close()


def fetch(request: dict[str, Any], talk: Talk) -> dict[str, Any]:
    """``scheme``, ``url``, ``name``, ``options``, ``most_files``, ``most_bytes`` (or null).

    Asks whether it is wanted at all, once it knows size and token; is told where to write it.
    """
    place = Place(request["scheme"], request["url"], request["options"])
    most_files, most_bytes = int(request["most_files"]), request["most_bytes"]
    remotes, folder = place.files(most_files)
    if len(remotes) > most_files:
        raise TooMuch(f"{place.shown}: more than {most_files} files")
    if not remotes:
        raise Unavailable(f"{place.shown}: an empty folder")
    sizes = [one.size for one in remotes]
    size = sum(one or 0 for one in sizes) if None not in sizes else None
    if most_bytes is not None and size is not None and size > most_bytes:
        raise TooMuch(f"{place.shown}: {size / (1 << 20):,.1f} MiB")
    answer = talk.ask({"size": size, "token": _token(remotes), "folder": folder})
    if "into" not in answer:
        return {}
    talk.room(int(answer["room"]))
    writer = Writer(
        Path(answer["into"]), most_files=most_files, most_bytes=most_bytes, wrote=talk.at
    )
    for remote in remotes:
        _one(place, remote, remote.name if folder else request["name"], writer)
    return tree_of(writer.finish())


def tree_of(tree: Tree) -> dict[str, Any]:
    """A tree as it is told."""
    return {
        "sha256": tree.sha256,
        "files": [[one.name, one.size, one.sha256] for one in tree.files],
    }


def _one(place: Place, remote: Remote, name: str, writer: Writer) -> None:
    source = _Told(place, remote)
    try:
        written = writer.file(name, source)
    finally:
        source.close()
    if remote.size is not None and written.size != remote.size:
        raise Unavailable(
            f"{place.shown}: {remote.name or 'it'} has {written.size} bytes, and should have "
            f"{remote.size}: the transfer broke off, or it was changed meanwhile"
        )


def _token(remotes: list[Remote]) -> str:
    if not all(one.token for one in remotes):
        return ""
    return "\n".join(f"{one.name} {one.token}" for one in remotes)
