"""Tells whether a tree on disk is still as it was written, without reading it.

The node's own user can write to what is read-only (a native job, a careless operator). A change
leaves its mark on the file's change time, which nothing sets back.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from worker.store.trees import Tree

_Mark = tuple[str, int, int, int]
"""Name, size, inode, change time in ns."""


@dataclass(frozen=True, slots=True)
class Witness:
    """What the files looked like."""

    marks: tuple[_Mark, ...]
    valid: bool = True

    @classmethod
    def of(cls, directory: Path, tree: Tree) -> Witness:
        """The tree in ``directory``, as it is now."""
        return cls(tuple(_mark(directory, one.name) for one in tree.files))

    @classmethod
    def read(cls, path: Path) -> Witness:
        """One that was written; of something else, one that nothing stands before."""
        try:
            found = json.loads(path.read_bytes())
            return cls(tuple((str(a), int(b), int(c), int(d)) for a, b, c, d in found["files"]))
        except (OSError, ValueError, KeyError, TypeError):
            return cls((), valid=False)

    def write(self, path: Path) -> None:
        """Write it durably."""
        with path.open("xb") as out:
            out.write(json.dumps({"files": self.marks}).encode())
            out.flush()
            os.fsync(out.fileno())

    def stands(self, directory: Path) -> bool:
        """Whether the files in ``directory`` are the same, and no others are there."""
        if not self.valid:
            return False
        try:
            if any(_mark(directory, mark[0]) != mark for mark in self.marks):
                return False
        except OSError:
            return False
        names = sum(len(files) for _, _, files in os.walk(directory))
        return names == len(self.marks)


def _mark(directory: Path, name: str) -> _Mark:
    about = os.lstat(f"{directory}/{name}")
    return name, about.st_size, about.st_ino, about.st_ctime_ns
