"""Container engines: what answers on their sockets. Asks, starts nothing."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any, Final

from worker.cli.checks.base import Check, Situation, missing, ok

_WITHIN_S: Final = 3.0
_ONLY: Final = "jobs cannot run in containers here; native jobs do not need one"


def check_docker(situation: Situation) -> Check:
    """The Docker Engine behind ``docker.socket``."""
    docker = situation.config.docker
    name, path = "docker", docker.socket
    if not docker.enabled:
        return missing(
            name, "switched off", why="docker.enabled is false", todo="set docker.enabled: true"
        )
    if not path.exists():
        installed = shutil.which("dockerd") or shutil.which("docker")
        return missing(
            name,
            f"no socket {path}",
            why=_ONLY,
            todo=f"start the Docker Engine ({installed} is installed), or set docker.socket"
            if installed
            else "install the Docker Engine, or set docker.socket to where its socket is",
        )
    try:
        version, info = _ask(path, "/version"), _ask(path, "/info")
    except PermissionError:
        return missing(
            name,
            f"{path}: permission denied",
            why=_ONLY,
            todo="run the node as a user of the socket's group (docker): that is as good as root",
        )
    except (OSError, ValueError, http.client.HTTPException) as error:
        return missing(
            name,
            f"{path}: {error}",
            why=_ONLY,
            todo="see that the Docker Engine runs: `docker info` says more",
        )
    return ok(name, _described(version, info))


def check_podman(situation: Situation) -> Check:
    """Podman: the program, and the socket of this user's service."""
    podman = situation.config.podman
    name = "podman"
    if not podman.enabled:
        return missing(
            name, "switched off", why="podman.enabled is false", todo="set podman.enabled: true"
        )
    program = shutil.which("podman")
    if program is None:
        return missing(
            name,
            "not installed",
            why=_ONLY,
            todo="install podman (Debian: apt-get install podman uidmap slirp4netns)",
        )
    path = podman.socket or _users_socket(situation)
    version = _program_version(program)
    if not path.exists():
        return missing(
            name,
            f"{version}; no socket {path}",
            why=_ONLY,
            todo="systemctl --user enable --now podman.socket, or set podman.socket",
        )
    try:
        return ok(name, _described(_ask(path, "/version"), _ask(path, "/info")))
    except (OSError, ValueError, http.client.HTTPException) as error:
        return missing(
            name,
            f"{version}; {path}: {error}",
            why=_ONLY,
            todo="see that the service runs: `podman --remote info` says more",
        )


def _users_socket(situation: Situation) -> Path:
    if os.geteuid() == 0:
        return Path("/run/podman/podman.sock")
    runtime = situation.env.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
    return Path(runtime) / "podman/podman.sock"


def _program_version(program: str) -> str:
    try:
        done = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{program}: {error}"
    return done.stdout.strip() or done.stderr.strip()[-200:]


def _described(version: dict[str, Any], info: dict[str, Any]) -> str:
    runtimes = ", ".join(sorted(info.get("Runtimes") or ())) or "unknown"
    options = info.get("SecurityOptions") or ()
    rootless = ", rootless" if any("rootless" in str(option) for option in options) else ""
    return (
        f"{version.get('Version', '?')} (API {version.get('ApiVersion', '?')}{rootless}), "
        f"cgroup v{info.get('CgroupVersion', '1')}, runtimes {runtimes}"
    )


class _Unix(http.client.HTTPConnection):
    """HTTP through a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_WITHIN_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_WITHIN_S)
        self.sock.connect(str(self._path))


def _ask(path: Path, what: str) -> dict[str, Any]:
    """The engine's answer. Raises OSError, HTTPException, ValueError."""
    connection = _Unix(path)
    try:
        connection.request("GET", what)
        answer = connection.getresponse()
        body = answer.read(1 << 20)
        if answer.status != http.client.OK:
            raise ValueError(f"{what}: HTTP {answer.status}")
        found = json.loads(body)
        if not isinstance(found, dict):
            raise ValueError(f"{what}: no JSON object")
        return found
    finally:
        connection.close()
