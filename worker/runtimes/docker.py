"""Attempts in Docker containers."""

from __future__ import annotations

from worker.keeper.zygote import Zygote
from worker.runtimes.engine.dialect import DOCKER
from worker.runtimes.engine.runtime import EngineRuntime
from worker.runtimes.engine.settings import EngineSettings


def docker_runtime(settings: EngineSettings, *, zygote: Zygote | None = None) -> EngineRuntime:
    """The runtime of the Docker engine at ``settings.socket``. Nothing is asked of it yet."""
    return EngineRuntime(DOCKER, settings, zygote=zygote)
