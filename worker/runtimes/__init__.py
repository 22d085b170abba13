"""The runtimes of a node, by name. A new one is a module beside these and a line below.

Each is imported when it is first asked for: none may cost a host that does not use it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.errors import ConfigError
from worker.config import NodeConfig
from worker.runtimes.base import Runtime

if TYPE_CHECKING:
    from worker.keeper.zygote import Zygote
    from worker.runtimes.engine.runtime import EngineRuntime


def native_runtime(
    *, state_root: Path, abandon_after: float, zygote: Zygote | None = None
) -> Runtime:
    """The native runtime of the node whose state is in ``state_root``.

    ``abandon_after``: seconds without a supervisor after which attempts end. A ``zygote`` that is
    given stays the caller's to close.
    """
    from worker.runtimes.native import NativeRuntime

    return NativeRuntime(state_root=state_root, abandon_after=abandon_after, zygote=zygote)


def engine_runtime(
    name: str, config: NodeConfig, *, abandon_after: float, zygote: Zygote | None = None
) -> EngineRuntime:
    """The runtime of the container engine ``name`` as ``config`` has it. Nothing is asked of the
    engine yet: `Runtime.capabilities` says whether it can be used, and why not.

    Raises:
        ConfigError: there is no such engine, it is switched off, or its file of logins is wrong.
    """
    from worker.runtimes.engine.settings import EngineSettings

    match name:
        case "docker":
            if not config.docker.enabled:
                raise ConfigError("docker.enabled is false: this node uses no Docker")
            from worker.runtimes.docker import docker_runtime

            return docker_runtime(
                EngineSettings.of(
                    config,
                    socket=config.docker.socket,
                    abandon_after=abandon_after,
                    runtime=config.docker.runtime,
                ),
                zygote=zygote,
            )
        case "podman":
            if not config.podman.enabled:
                raise ConfigError("podman.enabled is false: this node uses no Podman")
            from worker.runtimes.podman import podman_runtime

            podman = config.podman
            return podman_runtime(
                EngineSettings.of(
                    config,
                    socket=podman.socket or users_podman_socket(os.environ),
                    abandon_after=abandon_after,
                    runtime=podman.runtime,
                    accept_unenforced=podman.accept_unenforced,
                ),
                zygote=zygote,
            )
        case _:
            raise ConfigError(f"no container engine is called {name!r}; there are: docker, podman")


def users_podman_socket(env: Mapping[str, str]) -> Path:
    """Where the Podman service of the node's user listens."""
    if os.geteuid() == 0:
        return Path("/run/podman/podman.sock")
    runtime = env.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
    return Path(runtime) / "podman" / "podman.sock"
