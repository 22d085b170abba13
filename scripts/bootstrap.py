"""Makes .venv from requirements.lock: needs nothing but Python 3.11 or newer and a pip.

    python3 scripts/bootstrap.py

Does nothing where .venv is whole and up to date. One that is half made, broken, moved, or made by
another Python is made anew. Standard library only, and no newer syntax than Python 3.6 can read,
so that an old Python gets the message below and no traceback.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - this is where an older one is told so
    sys.exit(
        "Python 3.11 or newer is needed, and {} is {}.{}.{}; name a newer one: "
        "make PYTHON=python3.12 ...".format(sys.executable, *sys.version_info[:3])
    )

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".complete"
PIP_KNOWS_PYTHON = (22, 3)
"""The first pip that can install into another Python's environment."""


def main() -> None:
    with alone():
        wanted = fingerprint()
        if STAMP.is_file() and STAMP.read_text() == wanted and starts():
            return
        begin = time.monotonic()
        print("making .venv ...", flush=True)
        install(pip_into_venv())
        STAMP.write_text(wanted)
        print(f"made .venv in {time.monotonic() - begin:.0f} s", flush=True)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Two at once would clear what the other installs: the second waits."""
    import fcntl

    fd = os.open(ROOT, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def fingerprint() -> str:
    """Changes with whatever .venv was made from: lock, packaging, place and Python."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packaging = [project["build-system"], project["project"], project["tool"]["setuptools"]]
    parts = [json.dumps(packaging), str(ROOT), sys.version, sys.base_prefix]
    digest = hashlib.sha256((ROOT / "requirements.lock").read_bytes())
    digest.update("\0".join(parts).encode())
    return digest.hexdigest()


def starts() -> bool:
    """Whether the Python in .venv is there, works, and is in this .venv."""
    show = "import sys; print(sys.prefix)"
    try:
        said = subprocess.run([PYTHON, "-I", "-c", show], capture_output=True, text=True)
    except OSError:
        return False
    return said.returncode == 0 and said.stdout.strip() == str(VENV)


def pip_into_venv() -> list[str]:
    """Make an empty .venv; the command of a pip that installs into it."""
    if own_pip() >= PIP_KNOWS_PYTHON:  # so on Debian, whose python3 has no ensurepip
        venv("--without-pip")
        return [sys.executable, "-m", "pip", "--python", str(PYTHON)]
    if importlib.util.find_spec("ensurepip"):
        venv()
        return [str(PYTHON), "-m", "pip"]
    sys.exit(
        f"{sys.executable} has neither pip 22.3 (or newer) nor ensurepip. "
        "Install one (Debian: apt-get install python3-pip; Fedora: dnf install python3-pip) "
        "or name another Python: make PYTHON=..."
    )


def own_pip() -> tuple[int, ...]:
    """The version of the pip of the Python that runs this; () if it has none."""
    try:
        version = importlib.metadata.version("pip")
    except importlib.metadata.PackageNotFoundError:
        return ()
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


def venv(*options: str) -> None:
    """Make .venv anew."""
    if VENV.is_symlink() or VENV.is_file():
        VENV.unlink()
    run([sys.executable, "-m", "venv", "--clear", *options, str(VENV)])


def install(pip: list[str]) -> None:
    """Install what the lock names, each by its hash, and this project as it stands."""
    base = [*pip, "--disable-pip-version-check", "install", "--quiet", "--no-warn-script-location"]
    run([*base, "--require-hashes", "--requirement", str(ROOT / "requirements.lock")])
    run([*base, "--no-deps", "--no-build-isolation", "--editable", str(ROOT)])


def run(command: list[str]) -> None:
    """Run one step; end here if it fails. Its own output has said why."""
    skip = ("PYTHONHOME", "PYTHONPATH", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER")
    env = {name: value for name, value in os.environ.items() if name not in skip}
    done = subprocess.run(command, cwd=ROOT, env={**env, "PIP_USER": "0"})
    if done.returncode != 0:
        sys.exit(f"making .venv failed with {done.returncode} in: {' '.join(command)}")


if __name__ == "__main__":
    main()
