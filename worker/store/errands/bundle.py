"""Reads the files of a git bundle: of its HEAD, or of its only branch.

Nothing is checked out, so no attribute, filter or hook of the repository means anything: the
objects are read one by one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from worker.store.errands.talk import Unavailable, Wrong
from worker.store.trees import TooMuch, Unsafe, Writer

_SIGNATURES: Final = (b"# v2 git bundle\n", b"# v3 git bundle\n")
_REF: Final = re.compile(r"HEAD|refs/[A-Za-z0-9][A-Za-z0-9._/+-]*")
_CODE: Final = "refs/heads/code"
_SETTINGS: Final = (
    "-c", "fetch.fsckObjects=true", "-c", "protocol.file.allow=always", "-c", "gc.auto=0",
    "-c", "core.hooksPath=/dev/null",
)  # fmt: skip


def read(archive: Path, temporary: Path, writer: Writer, most_bytes: int) -> None:
    """Write its files. ``temporary``: a directory for the repository."""
    with archive.open("rb") as opened:
        if opened.read(len(_SIGNATURES[0])) not in _SIGNATURES:
            raise Wrong("is no git bundle")
    git = shutil.which("git")
    if git is None:
        raise Unavailable("this node has no git to read a bundle with; send an archive")
    repository = temporary / "repository"
    _run(git, "init", "-q", "--bare", "--template=", str(repository))
    ref = _ref(_run(git, "-C", str(repository), "bundle", "list-heads", str(archive)))
    _run(
        git, "-C", str(repository), "fetch", "-q", "--no-tags", str(archive), f"+{ref}:{_CODE}"
    )  # fmt: skip
    entries = list(_entries(_run(git, "-C", str(repository), "ls-tree", "-rzl", _CODE)))
    if sum(size for _, _, size, _ in entries) > most_bytes:
        raise TooMuch(f"more than {most_bytes / (1 << 20):g} MiB")
    _write(git, repository, entries, writer)
    shutil.rmtree(repository)


def _ref(heads: bytes) -> str:
    found = [line.split(" ", 1)[1] for line in heads.decode().splitlines() if " " in line]
    branches = [one for one in found if one != "HEAD"]
    ref = "HEAD" if "HEAD" in found else branches[0] if len(branches) == 1 else ""
    if not ref:
        raise Wrong(
            f"the bundle has no HEAD and {len(branches)} branches; make it with "
            "`git bundle create FILE HEAD`"
        )
    if not _REF.fullmatch(ref) or ".." in ref:
        raise Wrong(f"the bundle's branch {ref[:100]!r} has a name that is not taken here")
    return ref


def _entries(listing: bytes) -> Iterator[tuple[str, str, int, str]]:
    """Mode, object, bytes and name of each file."""
    for line in listing.split(b"\0"):
        if line:
            about, _, name = line.decode().partition("\t")
            mode, kind, sha, size = about.split()
            if kind != "blob":
                raise Unsafe(f"{name!r} is a submodule; send its files, too")
            yield mode, sha, int(size), name


class _Blob:
    def __init__(self, source: IO[bytes], size: int) -> None:
        self._source = source
        self._left = size

    def read(self, size: int) -> bytes:
        block = self._source.read(min(size, self._left))
        self._left -= len(block)
        return block


def _write(
    git: str, repository: Path, entries: list[tuple[str, str, int, str]], writer: Writer
) -> None:
    with subprocess.Popen(
        [git, "-C", str(repository), "cat-file", "--batch"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=_environment(),
    ) as process:
        assert process.stdin is not None  # noqa: S101 - for the type checker
        assert process.stdout is not None  # noqa: S101 - for the type checker
        for mode, sha, size, name in entries:
            process.stdin.write(sha.encode() + b"\n")
            process.stdin.flush()
            if process.stdout.readline().split()[1:] != [b"blob", str(size).encode()]:
                raise Wrong(f"the bundle's object {sha} cannot be read")
            blob = _Blob(process.stdout, size)
            if mode == "120000":
                if size > 4096:
                    raise Unsafe(f"the link {name!r} is too long")
                writer.link(name, blob.read(size).decode())
            else:
                writer.file(name, blob, executable=mode == "100755")
            process.stdout.read(1)  # the newline after each object
        process.stdin.close()


def _run(git: str, *arguments: str) -> bytes:
    done = subprocess.run(
        [git, *_SETTINGS, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=_environment(),
        check=False,
    )
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise Wrong(f"git cannot read the bundle: {said[0][:300] if said else done.returncode}")
    return done.stdout


def _environment() -> dict[str, str]:
    """Nothing of the node's own git settings."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": "/nonexistent",
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
    }
