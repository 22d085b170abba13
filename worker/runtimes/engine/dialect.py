"""What differs from engine to engine, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialect:
    """How one engine wants to be spoken to."""

    name: str
    """docker or podman: the runtime's name, and what people read."""
    component: str
    """What ``/version`` calls the engine: its other answers can be made by an imitation."""
    server: str
    """What it calls itself in the ``Server`` of its answers."""
    api: str
    """The API version that is spoken; where an engine has given it up, the oldest that it has."""
    newest_api: str
    """The newest version that this code has the shapes of: an engine that wants more is refused."""
    log_driver: str
    """Keeps a container's output byte by byte, in files that the engine bounds."""
    log_options: Mapping[str, str] = field(default_factory=dict)
    tells_devices: bool = True
    """Says which GPUs it gave to a container, and takes them by more than their CDI names."""
    tells_by_ping: bool = False
    """Its answer to a ping says what it is; ``/version`` takes it most of a second."""
    oldest_api: str = ""
    """Where a ping is all that it is asked: the oldest version that it speaks."""


DOCKER = Dialect(
    name="docker",
    component="Engine",
    server="Docker",
    api="1.41",
    newest_api="1.52",
    log_driver="local",
    log_options={"max-size": "16m", "max-file": "2", "compress": "false"},
)
"""API 1.41 is that of Docker 20.10; Docker 29 begins at 1.44."""

PODMAN = Dialect(
    name="podman",
    tells_devices=False,
    component="Podman Engine",
    server="Libpod",
    api="1.41",
    newest_api="1.52",
    log_driver="k8s-file",
    log_options={"max-size": str(16 << 20)},
    tells_by_ping=True,
    oldest_api="1.24",
)
"""Of Docker's API it speaks 1.41 from version 4.0 to 5.7; its own is beside that."""


def api_version(dialect: Dialect, oldest: str, newest: str) -> str | None:
    """The version to speak with an engine that speaks ``oldest`` to ``newest``; None: there is
    none that both know."""
    wanted = max(_number(dialect.api), _number(oldest))
    if wanted > min(_number(newest), _number(dialect.newest_api)):
        return None
    return ".".join(map(str, wanted))


def _number(version: str) -> tuple[int, int]:
    major, _, minor = version.partition(".")
    return int(major), int(minor or 0)
