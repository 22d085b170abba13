"""Attempts as plain processes of the node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tasks.job import JobConfig
from worker.config import NodeConfig
from worker.launchers import Asked, Picked
from worker.launchers.native_plan import native_plan
from worker.launchers.secrets import with_secrets
from worker.node.paths import NodePaths
from worker.plan import LaunchPlan
from worker.runtimes.base import Handle, Runtime


class NativeLauncher:
    """See `worker.launchers.Launcher`."""

    def __init__(self, runtime: Runtime, config: NodeConfig, paths: NodePaths) -> None:
        self.runtime = runtime
        self._config = config
        self._paths = paths

    def prepare(
        self, job: JobConfig, before: Picked | None, progress: Callable[[str, str], None]
    ) -> Picked:
        self.runtime.prepare(None, lambda detail: None)
        return Picked()

    def plan(self, asked: Asked, picked: Picked) -> LaunchPlan:
        return with_secrets(native_plan(asked, self._config, self._paths), asked.secrets)

    def report(self, handle: Handle) -> dict[str, Any]:
        return {}
