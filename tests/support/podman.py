"""The tests' one rootless Podman, with its base image: all processes of a test run share it.

It is the Podman of whoever runs the tests, with storage, configuration and socket of its own in one
directory. It ends, with all its containers, when the process that it was started for ends, whatever
happens to that one. Root's would be no rootless Podman: ``.ci/run podman`` runs these tests as an
ordinary user.

    python -m tests.support.podman DIRECTORY PID     serves in DIRECTORY while process PID lives
"""

from __future__ import annotations

import atexit
import contextlib
import getpass
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Self

import pytest

from tests.support import engine as docker_engine
from tests.support import guard
from tests.support.waiting import wait_until
from worker.keeper import engine

BASE, PYTHON = docker_engine.BASE, docker_engine.PYTHON
_STORAGE = """\
[storage]
driver = "{driver}"
runroot = "{place}/run/storage"
graphroot = "{place}/data"
"""
_CONTAINERS = """\
[engine]
runtime = "{runtime}"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


def missing() -> str | None:
    """Why no rootless Podman can be started here; None if one can."""
    if not sys.platform.startswith("linux"):
        return "rootless Podman needs Linux"
    if os.geteuid() == 0:
        return "rootless Podman needs an ordinary user: .ci/run podman runs these tests as one"
    for name, package in (
        ("podman", "podman"),
        ("newuidmap", "uidmap"),
        ("catatonit", "catatonit"),
        ("runc", "runc"),
    ):
        if shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None:
            return f"{name} is not on PATH (Debian: apt-get install {package})"
    if f"{getpass.getuser()}:" not in Path("/etc/subuid").read_text():
        return (
            f"{getpass.getuser()} has no subordinate ids: usermod --add-subuids 100000-165535 "
            f"--add-subgids 100000-165535 {getpass.getuser()}"
        )
    return None


def require() -> None:
    """Fail under CI where none can be started, else skip with the reason. Root skips there too:
    its tests are run by another stage."""
    why = missing()
    if why is None:
        return
    if os.environ.get("CI") == "true" and os.geteuid() != 0:
        pytest.fail(why)
    pytest.skip(why)


class Podman:
    """One ``podman system service``. A context manager: ``with Podman() as podman``."""

    def __init__(
        self, directory: Path | None = None, *, driver: str = "overlay", runtime: str = "runc"
    ) -> None:
        """Nothing is started yet."""
        self._own = directory is None
        # of the same place for temporary files as the tests': a socket's path must be short
        self.directory = directory or Path(tempfile.mkdtemp(prefix="cyx-podman-"))
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.socket = self.directory / "podman.sock"
        (self.directory / "run").mkdir(mode=0o700, exist_ok=True)
        self.configure(driver=driver, runtime=runtime)
        self.process: subprocess.Popen[bytes] | None = None

    def configure(self, *, driver: str, runtime: str) -> None:
        """Write its configuration, which it reads when it starts."""
        # not by variables: what cleans up after a container has none but HOME
        config = self.directory / "home" / ".config" / "containers"
        config.mkdir(mode=0o700, parents=True, exist_ok=True)
        (config / "storage.conf").write_text(_STORAGE.format(driver=driver, place=self.directory))
        (config / "containers.conf").write_text(_CONTAINERS.format(runtime=runtime))

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def env(self) -> dict[str, str]:
        """Of its commands: nothing of the user's own Podman is seen or touched."""
        return {
            "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin",
            "HOME": str(self.directory / "home"),
            "XDG_RUNTIME_DIR": str(self.directory / "run"),
            "TMPDIR": str(self.directory),
        }

    @property
    def log(self) -> str:
        path = self.directory / "podman.log"
        return path.read_text(errors="replace")[-4000:] if path.exists() else ""

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """``podman`` itself, on this one's storage."""
        return subprocess.run(
            ["podman", *words], env=self.env, capture_output=True, text=True, check=False
        )

    def start(self) -> Self:
        """Start the service and wait until it answers. Nothing if it runs."""
        if self.running:
            return self
        with (self.directory / "podman.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["podman", "system", "service", "--time=0", f"unix://{self.socket}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.env,
                cwd="/",
                start_new_session=True,
            )
        wait_until(self._answers, timeout=30, what=f"podman in {self.directory}")
        return self

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the service. Its containers go on: nothing of Podman's is above them."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, number)  # it is two: one outside its namespaces, one in
            self.process.wait(timeout=60)
        self.process = None
        self.socket.unlink(missing_ok=True)

    def close(self) -> None:
        """End it and its containers, and delete its directory. Safe to call twice."""
        self.stop()
        if self.directory.exists():
            self.command("rm", "--all", "--force", "--time", "0")
            self._end_monitors()
            # what belongs to subordinate ids can only be deleted among them; with its runtime
            # directory goes what says which process holds its namespaces
            pause = self.directory / "run" / "libpod" / "tmp" / "pause.pid"
            script = f'cat "{pause}"; rm -rf data run home'
            said = self.command("unshare", "sh", "-c", f'cd "{self.directory}"; {script}').stdout
            if said.strip().isdigit():
                os.kill(int(said), signal.SIGKILL)
        if self._own:
            shutil.rmtree(self.directory, ignore_errors=True)

    def _answers(self) -> bool:
        assert self.running, f"podman ended:\n{self.log}"
        try:
            return engine.call(str(self.socket), "GET", "/_ping", within=2.0).status == 200
        except OSError:
            return False

    def _end_monitors(self) -> None:
        """Of containers that were in nobody's list any more."""
        mark = os.fsencode(self.directory)
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if words[0].endswith(b"conmon") and mark in b"\0".join(words):
                    os.kill(int(entry.name), signal.SIGKILL)


@cache
def shared() -> Path:
    """The socket of the Podman of this test run, started by whichever process asks first."""
    require()
    return _directory() / "podman.sock" if _ready() else _start()


def _start() -> Path:
    directory = _directory()
    socket = directory / "podman.sock"
    with docker_engine.locked(directory.with_suffix(".lock")):
        if not _ready():
            directory.mkdir(mode=0o700, exist_ok=True)
            main = docker_engine.main_process()
            held = guard.tied("tests.support.podman", directory, main)
            if main == os.getpid():
                atexit.register(_end, held)  # with xdist it sees for itself that pytest ended
            docker_engine.import_base(socket)
            (directory / "imported").touch()
    return socket


def _ready() -> bool:
    return (_directory() / "imported").exists()


def _directory() -> Path:
    return docker_engine.run_directory("cyx-podman")


def _end(held: subprocess.Popen[bytes]) -> None:
    held.terminate()
    held.wait(timeout=60)


if __name__ == "__main__":
    guard.serve(Podman)
