"""A base image made of this host's own Python: for machines that reach no image registry.

    python3 images/local_base.py base.tar && docker import base.tar cyxwiz/local-base

The tar holds the interpreter that runs this script, its standard library, the shared libraries that
they and common wheels need, a shell and a few tools. It needs no root and no network, takes about
a second, and is as old or new as the host. Where a registry is at hand, use a real base instead:
`images/build.py` says how. Standard library only.
"""

from __future__ import annotations

import io
import os
import platform
import re
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator
from pathlib import Path

TOOLS = ("/bin/sh", "/bin/echo", "/bin/cat", "/bin/ls")
_LEFT_OUT = re.compile(
    r"(^|/)(site-packages|dist-packages|test|tests|idlelib|turtledemo|ensurepip|"
    r"lib2to3|tkinter|config-3[^/]*)(/|$)"
)
_WHEELS_EXPECT = (
    "libstdc++.so.6",
    "libgcc_s.so.1",
    "libgomp.so.1",
    "libpthread.so.0",
    "libdl.so.2",
    "librt.so.1",
    "libutil.so.1",
    "libm.so.6",
    "libresolv.so.2",
    "libnss_files.so.2",
)
"""What a manylinux wheel may take for granted beyond Python's own needs (PEP 600)."""
_TAG = sys.implementation.cache_tag or ""
_ZONES = Path("/usr/share/zoneinfo")
_USERS = "root:x:0:0:root:/:/bin/sh\njob:x:1000:1000::/tmp:/bin/sh\n"
_GROUP = "root:x:0:\njob:x:1000:\n"


class Base:
    """Adds files to a tar, each once, under the path that it has on this host."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._seen: set[str] = set()
        self._binaries: list[str] = []

    def add(self, path: str | Path, *, binary: bool = False) -> None:
        name = str(path).lstrip("/")
        if name in self._seen:
            return
        self._seen.add(name)
        self._tar.add(os.path.realpath(path), name, recursive=False)
        if binary:
            self._binaries.append(str(path))

    def add_libraries(self) -> None:
        """What the binaries that were added are linked with."""
        for name in _WHEELS_EXPECT:
            found = _library(name)
            if found is not None:
                self.add(found, binary=True)
        for binary in list(self._binaries):
            for needed in _linked(binary):
                self.add(needed)

    def text(self, name: str, content: str) -> None:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        entry.mode = 0o644
        self._tar.addfile(entry, io.BytesIO(content.encode()))

    def link(self, name: str, target: str) -> None:
        entry = tarfile.TarInfo(name)
        entry.type = tarfile.SYMTYPE
        entry.linkname = target
        self._tar.addfile(entry)

    def directory(self, name: str, mode: int = 0o755) -> None:
        entry = tarfile.TarInfo(name)
        entry.type = tarfile.DIRTYPE
        entry.mode = mode
        self._tar.addfile(entry)


def build(target: Path) -> None:
    """Write the tar of the base to ``target``."""
    interpreter = Path(sys.executable).resolve()
    with tarfile.open(target, "w") as tar:
        base = Base(tar)
        for name in ("proc", "sys", "dev", "etc"):
            base.directory(name)
        base.directory("tmp", 0o1777)
        base.text("etc/passwd", _USERS)
        base.text("etc/group", _GROUP)
        base.add(interpreter, binary=True)
        for path in _standard_library():
            base.add(path, binary=path.suffix == ".so")
        for tool in TOOLS:
            base.add(tool, binary=True)
        if (_ZONES / "UTC").exists():
            base.add(_ZONES / "UTC")
        base.add_libraries()
        for name in ("python3", "python"):
            base.link(f"usr/local/bin/{name}", str(interpreter))


def _standard_library() -> Iterator[Path]:
    prefix = sys.base_prefix
    root = Path(sysconfig.get_path("stdlib", vars={"installed_base": prefix, "base": prefix}))
    for directory, below, files in os.walk(root):
        inside = os.path.relpath(directory, root)
        below[:] = [name for name in below if not _LEFT_OUT.search(f"{inside}/{name}")]
        for name in files:
            # compiled once, here: where the root is read-only each start would compile it again
            stale = name.endswith(".pyc") and (".opt-" in name or _TAG not in name)
            if not stale and not name.endswith(".a"):
                yield Path(directory, name)


def _linked(binary: str) -> Iterator[str]:
    listing = subprocess.run(["ldd", binary], capture_output=True, text=True, check=False).stdout
    for found in re.finditer(r"(/\S+) \(0x", listing):
        yield found.group(1)


def _library(name: str) -> str | None:
    cache = subprocess.run(
        ["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True
    ).stdout
    flavour = r"[^)]*x86-64[^)]*" if platform.machine() == "x86_64" else r"[^)]*"
    found = re.search(rf"{re.escape(name)} \({flavour}\) => (\S+)", cache)
    return found.group(1) if found else None


if __name__ == "__main__":
    build(Path(sys.argv[1]))
