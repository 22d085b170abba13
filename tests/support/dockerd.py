"""A real Docker engine of the tests' own: its data, socket and processes are in one directory.

It has no bridge and touches no firewall rule, so it can run beside an engine of the host. It ends
when the process that it was started for ends, whatever happens to that one.

    python -m tests.support.dockerd DIRECTORY PID     serves in DIRECTORY while process PID lives
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from tests.support import guard
from tests.support.waiting import wait_until
from worker.keeper import engine

_NO_NETWORK = ("--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-masq=false")


_GVISOR: Final = ["--platform=ptrace", "--network=none"]
"""On any host; and a container's network is none, of which it would make something."""


def _runtimes() -> dict[str, object]:
    """What the engine can be asked for beside runc, as far as it is installed."""
    path, runc = shutil.which("runsc"), shutil.which("runc")
    found: dict[str, object] = {}
    if path:
        found["runsc"] = {"path": path, "runtimeArgs": _GVISOR}
    if runc:
        found["runsc-in-name-only"] = {"path": runc}
    return found


def missing() -> str | None:
    """Why no engine can be started here; None if one can."""
    if not sys.platform.startswith("linux"):
        return "a Docker engine needs Linux"
    if shutil.which("dockerd") is None:
        return "dockerd is not on PATH (Debian: apt-get install docker.io)"
    if os.geteuid() != 0:
        return "a private Docker engine needs root"
    return None


class Dockerd:
    """One dockerd. A context manager: ``with Dockerd() as engine``."""

    def __init__(
        self,
        directory: Path | None = None,
        *,
        options: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        own_containerd: bool = False,
    ) -> None:
        """Nothing is started yet. ``options``: more of dockerd's, such as ``--live-restore``.

        ``own_containerd``: beside it rather than below it, as distributions run it, so that it
        outlives a dockerd that is killed.
        """
        self._own = directory is None
        self.directory = directory or Path(tempfile.mkdtemp(prefix="cyx-dockerd-"))
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.socket = self.directory / "docker.sock"
        self._options = tuple(options)
        self._env = {**os.environ, **(env or {})}
        self._own_containerd = own_containerd
        self._containerd: subprocess.Popen[bytes] | None = None
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def log(self) -> str:
        path = self.directory / "dockerd.log"
        return path.read_text(errors="replace")[-4000:] if path.exists() else ""

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> Self:
        """Start it and wait until it answers. Nothing if it runs."""
        if self.running:
            return self
        place = self.directory
        gvisor = place / "daemon.json"
        gvisor.write_text(json.dumps({"runtimes": _runtimes()}))
        command = [
            "dockerd",
            f"--config-file={gvisor}",
            f"--data-root={place / 'data'}",
            f"--exec-root={place / 'exec'}",
            f"--pidfile={place / 'dockerd.pid'}",
            f"--host=unix://{self.socket}",
            "--log-level=warn",
            *_NO_NETWORK,
            *self._options,
        ]
        if self._own_containerd:
            command.append(f"--containerd={self._start_containerd()}")
        with (place / "dockerd.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._env
            )
        wait_until(self._answers, timeout=30, what=f"dockerd in {place}")
        return self

    def _start_containerd(self) -> Path:
        place = self.directory / "containerd"
        socket = place / "containerd.sock"
        if self._containerd is None:
            place.mkdir(mode=0o700, exist_ok=True)
            with (place / "log").open("wb") as log:
                self._containerd = subprocess.Popen(
                    [
                        "containerd",
                        f"--root={place / 'root'}",
                        f"--state={self.directory / 'exec' / 'containerd'}",
                        f"--address={socket}",
                        "--log-level=warn",
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=self._env,
                )
            wait_until(socket.exists, timeout=20, what="containerd")
        return socket

    def stop(self) -> None:
        """SIGTERM: it stops its containers and ends in good order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL: its containerd and its containers stay until it comes back."""
        self._end(signal.SIGKILL)

    def close(self) -> None:
        """End it and whatever it started, and delete its directory. Safe to call twice."""
        self.stop()
        if self._containerd is not None:
            self._containerd.kill()
            self._containerd.wait()
            self._containerd = None
        self._end_orphans()
        self._unmount()
        if self._own:
            shutil.rmtree(self.directory, ignore_errors=True)

    def _answers(self) -> bool:
        assert self.running, f"dockerd ended:\n{self.log}"
        try:
            return engine.call(str(self.socket), "GET", "/_ping", within=2.0).status == 200
        except OSError:
            return False

    def _end(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(timeout=60)
        self.process = None

    def _end_orphans(self) -> None:
        """containerd, its shims and their containers, where dockerd was killed: the first two name
        our directory, and the third are below the second."""
        marks = [os.fsencode(self.directory / name) for name in ("exec", "containerd")]
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes()
                if any(mark in line for mark in marks):
                    children = entry / "task" / entry.name / "children"
                    for child in children.read_text().split():
                        os.kill(int(child), signal.SIGKILL)
                    os.kill(int(entry.name), signal.SIGKILL)

    def _unmount(self) -> None:
        mark = f"{self.directory}/"
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        for line in reversed(mounts):
            where = line.split()[1]
            if where.startswith(mark):
                subprocess.run(["umount", "-l", where], check=False, capture_output=True)


if __name__ == "__main__":
    guard.serve(Dockerd)
