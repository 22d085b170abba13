"""The code of a script job: fetched or copied, unpacked, checked, and read-only in the cache."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from worker.store.beneath import NotBeneath, Opened, open_beneath
from worker.store.cache import Cache, Entry, Partial
from worker.store.fetching import Fetcher
from worker.store.policy import Policy
from worker.store.refusals import CodeRefused, DataRefused
from worker.store.send import TooLarge, Waiting
from worker.store.sources import Source
from worker.store.trees import TooMuch, Tree, Unsafe, Writer, checked_name, of_one
from worker.store.unpacking import ARCHIVES, Unpacker, kind_of
from worker.store.walk import Walk

_KINDS: Final = {**ARCHIVES, ".bundle": "bundle"}
_SKIP: Final = frozenset({".git", "__pycache__"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Code:
    """Code that can be run."""

    root: Path
    """The directory that `script` is in; read-only."""
    script: str
    """Relative to `root`."""
    sha256: str
    """What names the tree: the SHA-256 of its manifest."""
    entry: Entry


def script_argv(
    code: Code, interpreter: Path, args: Sequence[str] = (), root: Path | None = None
) -> tuple[str, ...]:
    """What runs the script: Python, sh for ``.sh``. ``root``: where the job sees the code."""
    script = str((root or code.root) / code.script)
    return ("/bin/sh" if script.endswith(".sh") else str(interpreter), script, *args)


class CodeStore:
    """Gets the code of jobs."""

    def __init__(self, cache: Cache, policy: Policy, fetcher: Fetcher, waiting: Waiting) -> None:
        self._cache = cache
        self._policy = policy
        self._fetcher = fetcher
        self._waiting = waiting
        self._unpacker = Unpacker(cache, waiting)

    def get(self, source: Source, script: str) -> Code:
        """The code, with ``script`` in it. Close its entry when it is no longer needed.

        Raises CodeRefused, DataRefused, DataUnavailable, NoRoom.
        """
        if source.scheme == "builtin":
            raise CodeRefused("code_uri: there is no builtin code")
        entry = self._local(source) if source.scheme == "file" else self._remote(source)
        try:
            kind = _kind(entry.data)
            if kind is not None:
                entry, packed = self._unpacked(source, entry, kind), entry
                packed.close()
            return _checked(source, script, entry)
        except BaseException:
            entry.close()
            raise

    def _remote(self, source: Source) -> Entry:
        try:
            return self._fetcher.fetch(
                source, most_bytes=self._policy.code_bytes, most_files=self._policy.code_files
            ).entry
        except TooLarge as error:
            raise self._too_large(str(error)) from None

    def _local(self, source: Source) -> Entry:
        """A copy: what runs is what was hashed, whatever becomes of the original."""
        try:
            opened = open_beneath(source.path, self._policy.roots)
        except NotBeneath:
            raise DataRefused(
                f"code_uri {source.shown!r}: not there, or not beneath this node's storage.roots",
                elsewhere=True,
            ) from None
        with opened, self._begin() as partial:
            writer = self._writer(partial)
            try:
                tree = _copied(opened, source.name, writer)
            except Unsafe as error:
                raise CodeRefused(f"code_uri {source.shown!r}: {error}") from None
            except TooMuch as error:
                raise self._too_large(f"code_uri {source.shown!r}: {error}") from None
            _check_pin(source, tree, folder=opened.is_dir)
            return partial.publish(tree)

    def _writer(self, partial: Partial) -> Writer:
        room = 0

        def wrote(total: int) -> None:
            nonlocal room
            self._waiting.check()
            if total > room:
                room = partial.grow(total)

        return Writer(
            partial.data,
            most_bytes=self._policy.code_bytes,
            most_files=self._policy.code_files,
            wrote=wrote,
        )

    def _unpacked(self, source: Source, packed: Entry, kind: str) -> Entry:
        try:
            return self._unpacker.unpacked(
                packed,
                kind,
                most_bytes=self._policy.code_bytes,
                most_files=self._policy.code_files,
            )
        except TooLarge as error:
            raise self._too_large(f"code_uri {source.shown!r}: {error}") from None
        except DataRefused as error:
            raise CodeRefused(f"code_uri {source.shown!r}: {error}") from None

    def _begin(self) -> Partial:
        return self._cache.begin(0, self._waiting.check)

    def _too_large(self, what: str) -> CodeRefused:
        return CodeRefused(
            f"{what}; the code of a job may have {self._policy.code_files} files and "
            f"{self._policy.code_bytes >> 20} MiB on this node (storage.code_files, "
            "storage.code_mb); data belong into dataset_uri"
        )


def _copied(opened: Opened, name: str, writer: Writer) -> Tree:
    def refuse(what: str) -> None:
        raise Unsafe(what)

    if not opened.is_dir:
        with os.fdopen(os.dup(opened.fd), "rb") as file:
            writer.file(name, file)
        return writer.finish()
    walk = Walk(
        refuse,
        most_entries=1_000_000,
        link=lambda path, target: writer.link(str(path), target),
        skip=_SKIP,
    )
    for path, fd in walk.files(opened.fd):
        with os.fdopen(fd, "rb") as file:
            executable = bool(os.fstat(fd).st_mode & 0o100)
            writer.file(str(path), file, executable=executable)
    return writer.finish()


def _check_pin(source: Source, tree: Tree, *, folder: bool) -> None:
    if source.pin is None:
        return
    wanted = source.pin if folder else of_one(source.name, source.pin)
    if wanted != tree.sha256:
        found = tree.sha256 if folder else tree.files[0].sha256
        raise DataRefused(
            f"code_uri {source.shown!r}: its SHA-256 is {found}, and the job's pin says "
            f"{source.pin}"
        )


def _kind(data: Path) -> str | None:
    """How the one file in ``data`` is packed; None where it is no archive, or there are more."""
    there = list(data.iterdir())
    if len(there) != 1 or not there[0].is_file():
        return None
    return kind_of(there[0].name, _KINDS)


def _checked(source: Source, script: str, entry: Entry) -> Code:
    """The code with its script. Raises CodeRefused."""
    try:
        name = checked_name(script)
    except Unsafe as error:
        raise CodeRefused(f"script: {error}; it is a path inside code_uri") from None
    if not name.endswith((".py", ".sh")):
        raise CodeRefused(f"script: {script!r} is neither a .py nor a .sh file; use command")
    root = entry.data
    tops = list(root.iterdir())
    if not (root / name).is_file() and len(tops) == 1 and tops[0].is_dir():
        root = tops[0]  # archives of repositories have one folder round everything
    if not (root / name).is_file():
        there = sorted(str(path.relative_to(root)) for path in root.rglob("*.py"))[:10]
        raise CodeRefused(
            f"script: {script!r} is not in {source.shown}; it has "
            f"{', '.join(there) or 'no Python file'}"
        )
    for top in {root, entry.data}:
        _refuse_requirements(source, top)
    return Code(root=root, script=str(PurePosixPath(name)), sha256=entry.sha256, entry=entry)


def _refuse_requirements(source: Source, root: Path) -> None:
    """A job installs nothing: what it runs with is the image's, and nothing comes by surprise."""
    found = next(
        (
            name
            for name in ("requirements.txt", "environment.yml", "environment.yaml", "Pipfile")
            if (root / name).is_file()
        ),
        None,
    )
    if found is None and _has_dependencies(root / "pyproject.toml"):
        found = "pyproject.toml, which has dependencies"
    if found is not None:
        raise CodeRefused(
            f"code_uri: {source.shown} has {found}, and a node installs nothing for a job; name an "
            "image that has these packages (image, image_version) and leave the file out"
        )


def _has_dependencies(path: Path) -> bool:
    try:
        found = tomllib.loads(path.read_text())
    except (OSError, ValueError):
        return False
    project, tool = found.get("project"), found.get("tool")
    poetry = tool.get("poetry") if isinstance(tool, dict) else None
    return bool(
        (isinstance(project, dict) and project.get("dependencies"))
        or (isinstance(poetry, dict) and set(poetry.get("dependencies", ())) - {"python"})
    )
