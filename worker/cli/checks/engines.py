"""Container engines: what answers on their sockets, and what a probe has shown of it."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Final

from worker.cli.checks.base import Check, Situation, Verdict, missing
from worker.runtimes import users_podman_socket

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
    if not os.access(path, os.R_OK | os.W_OK):
        return missing(
            name,
            f"{path}: permission denied",
            why=_ONLY,
            todo="run the node as a user of the socket's group (docker): that is as good as root",
        )
    return _judged(situation, name)


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
    path = podman.socket or users_podman_socket(situation.env)
    version = _program_version(program)
    if not path.exists():
        return missing(
            name,
            f"{version}; no socket {path}",
            why=_ONLY,
            todo="systemctl --user enable --now podman.socket, or set podman.socket",
        )
    return _judged(situation, name)


def _judged(situation: Situation, name: str) -> Check:
    """What a probe has shown."""
    report = situation.capabilities().engine(name)
    assert report is not None  # noqa: S101 - there is one of each engine
    if not report.available:
        return missing(name, "not usable", why=f"{report.reason}; {_ONLY}", todo=report.todo)
    facts = report.facts
    parts = [
        f"{facts.version}{', rootless' if facts.rootless else ''}",
        f"level {report.level.name.lower()}",
        f"cgroup v{facts.cgroup_version}",
        facts.runtime,
        f"storage {facts.storage}",
    ]
    found = ", ".join(filter(None, parts))
    items = tuple(
        {field: str(getattr(one, field)) for field in ("name", "keeping", "seen", "why", "todo")}
        for one in report.promises
    )
    warned = "; ".join(report.warnings)
    if report.usable:
        said = f"{found}; warning: {warned}" if warned else found
        return Check(name=name, verdict=Verdict.OK, found=said, items=items)
    return Check(
        name=name,
        verdict=Verdict.MISSING,
        found=found,
        why="; ".join(filter(None, (report.reason, warned))),
        todo=report.todo,
        items=items,
    )


def _program_version(program: str) -> str:
    try:
        done = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{program}: {error}"
    return done.stdout.strip() or done.stderr.strip()[-200:]
