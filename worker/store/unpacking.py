"""Archives: each is unpacked once, into a tree of its own in the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from worker.store.cache import Cache, Entry, Known
from worker.store.fetching import tree_from
from worker.store.send import Waiting, send

ARCHIVES: Final = {
    ".zip": "zip", ".tar": "tar", ".tgz": "tar", ".tar.gz": "tar", ".tbz2": "tar",
    ".tar.bz2": "tar", ".txz": "tar", ".tar.xz": "tar",
}  # fmt: skip
"""By what their names end with."""
_MACS: Final = "__MACOSX"
"""What macOS puts into an archive beside what was to be packed."""
_UNPACKER: Final = "1"
"""Another one where the same archive would be unpacked otherwise."""


def kind_of(name: str, kinds: Mapping[str, str]) -> str | None:
    """How a file of that name is packed; None where it is of none of the ``kinds``."""
    return next((kind for end, kind in kinds.items() if name.lower().endswith(end)), None)


def one_folder(tree: Path) -> Path:
    """The folder that archives often have round everything, if it has; else the tree itself."""
    tops = [one for one in tree.iterdir() if not one.name.startswith(".") and one.name != _MACS]
    return tops[0] if len(tops) == 1 and tops[0].is_dir() else tree


class Unpacker:
    """Unpacks what is in the cache, by an errand: see `worker.store.errands.unpack`."""

    def __init__(self, cache: Cache, waiting: Waiting) -> None:
        self._cache = cache
        self._waiting = waiting

    def unpacked(self, packed: Entry, kind: str, *, most_bytes: int, most_files: int) -> Entry:
        """The tree in the one file of ``packed``, which stays open.

        Raises DataRefused, TooLarge, NoRoom, and what the wait raises.
        """
        how = f"unpacked {_UNPACKER} {most_bytes} {most_files}\n{packed.sha256}"
        key = hashlib.sha256(how.encode()).hexdigest()
        with self._cache.alone(key, self._waiting.check):
            known = self._cache.known(key)
            there = None if known is None else self._cache.use(known.sha256, self._waiting.check)
            if there is not None:
                return there
            with self._cache.begin(0, self._waiting.check) as partial:
                request = {
                    "errand": "unpack",
                    "archive": str(next(packed.data.iterdir())),
                    "kind": kind,
                    "into": str(partial.data),
                    "temporary": str(partial.directory),
                    "room": 0,
                    "most_bytes": most_bytes,
                    "most_files": most_files,
                }

                def answer(asked: Any) -> dict[str, Any]:
                    return {"room": partial.grow(int(asked["room"]))}

                entry = partial.publish(tree_from(send(request, answer, self._waiting)))
            with entry.unless_kept():  # still alone: whoever waits finds it known
                known = Known(sha256=entry.sha256, token="", folder=True, asked=0.0)
                self._cache.remember(key, known)
        return entry
