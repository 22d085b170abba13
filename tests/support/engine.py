"""The tests' one Docker engine, with its base image: all processes of a test run share it."""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import docker
import pytest

from tests.support import dockerd
from tests.support.guard import REPO, tied

BASE = "cyxwiz/local-base:latest"
EXECUTOR = "cyxwiz/executor:cpu-latest"
PYTHON = "/usr/local/bin/python3"
"""Where Python is in `BASE`."""


def require() -> None:
    """Fail under CI where no engine can be started, else skip with the reason."""
    why = dockerd.missing()
    if why is None:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)


def require_gvisor() -> None:
    """As `require`, for gVisor in it."""
    if shutil.which("runsc") is not None:
        return
    why = "runsc is not on PATH (Debian: apt-get install runsc)"
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)


@cache
def shared() -> Path:
    """The socket of the engine of this test run, started by whichever process asks first."""
    require()
    directory = _directory()
    with locked(directory.with_suffix(".lock")):
        if not (directory / "ready").exists():
            directory.mkdir(mode=0o700, exist_ok=True)
            guard = tied("tests.support.dockerd", directory, main_process())
            if main_process() == os.getpid():
                atexit.register(_end, guard)  # with xdist it sees for itself that pytest ended
            import_base(directory / "docker.sock")
    return directory / "docker.sock"


def import_base(socket: Path) -> None:
    """Put `BASE` into the engine at ``socket``."""
    with tempfile.TemporaryDirectory() as place:
        tar = Path(place) / "base.tar"
        subprocess.run(
            [sys.executable, str(REPO / "images" / "local_base.py"), str(tar)], check=True
        )
        client = raw(socket)
        repository, tag = BASE.split(":")
        client.import_image(src=str(tar), repository=repository, tag=tag)
        client.close()


@cache
def executor() -> str:
    """The cpu executor image in the shared engine: built by the first that asks."""
    socket = shared()
    with locked(_directory().with_suffix(".lock")):
        client = raw(socket)
        if not client.images(EXECUTOR):
            build_images(socket, "cpu")
        client.close()
    return EXECUTOR


def build_images(socket: Path, *arguments: str) -> str:
    """``images/build.py build`` on the local base, in the engine at ``socket``; what it said."""
    return run_build(socket, "build", "--base", BASE, "--offline", *arguments)


def run_build(socket: Path, *arguments: str) -> str:
    """``images/build.py`` with the engine at ``socket``; what it said."""
    done = subprocess.run(
        [sys.executable, str(REPO / "images" / "build.py"), *arguments],
        env={**os.environ, "DOCKER_HOST": f"unix://{socket}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def raw(socket: Path) -> docker.APIClient:
    """docker-py itself, to see what the engine says without any code of ours."""
    return docker.APIClient(base_url=f"unix://{socket}", version="1.41", timeout=120)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process of this test run at a time."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _directory() -> Path:
    return run_directory("cyx-engine")


def run_directory(name: str) -> Path:
    """The same directory for all processes of this test run, and no other run's."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))[:12]
    # not this process's own directory for temporary files: the others must find it
    root = os.environ.get("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    return Path(root) / f"{name}-{run}"


def _end(guard: subprocess.Popen[bytes]) -> None:
    guard.terminate()
    guard.wait(timeout=60)


def main_process() -> int:
    """pytest itself: with xdist, the parent of this worker."""
    return os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
