"""A node's runtime in a test, and programs for its containers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.support import engine
from tests.support.runtimes import Heard, Places, engine_runtime_in, engine_socket, hear, soon
from tests.support.waiting import wait_until
from worker.plan import ExitStatus, LaunchPlan, Limits
from worker.runtimes.engine.handle import EngineHandle
from worker.runtimes.engine.runtime import EngineRuntime
from worker.runtimes.engine.settings import STATE

LIMITS = Limits(memory_mb=128, cpu_cores=1, shm_size_mb=16, pids=64, nofile=1024, output_mb=16)


class Jobs:
    """Plans, starts and clears up."""

    def __init__(
        self, root: Path, socket: Path, *, engine: str = "docker", **settings: Any
    ) -> None:
        """``settings``: see `engine_runtime_in`."""
        self.places = Places(root)
        self.socket = socket
        self.engine = engine
        self.runtime = self.another(**settings)
        self._started: list[EngineHandle] = []

    def another(self, **settings: Any) -> EngineRuntime:
        """A runtime as a successor would make it, or with other settings."""
        return engine_runtime_in(self.engine, self.places.state, self.socket, **settings)

    def plan(self, source: str, **differs: Any) -> LaunchPlan:
        """A plan for Python source, which runs without ``site``. ``differs``: of `LaunchPlan`."""
        argv = (engine.PYTHON, "-S", "-u", "-c", source)
        plan = self.places.plan(argv, differs.pop("limits", LIMITS))
        return replace(plan, **{"image": engine.BASE, "env": {}, **differs})

    def start(
        self, source: str, runtime: EngineRuntime | None = None, **differs: Any
    ) -> EngineHandle:
        handle = (runtime or self.runtime).start(self.plan(source, **differs), soon())
        assert isinstance(handle, EngineHandle)
        self.places.release()
        self._started.append(handle)
        return handle

    def run(self, source: str, **differs: Any) -> tuple[Heard, ExitStatus]:
        """Run Python source to its end."""
        handle = self.start(source, **differs)
        heard = hear(handle, timeout=60)
        assert heard.exit is not None
        return heard, heard.exit

    @property
    def keeps(self) -> frozenset[str]:
        """The limits that are kept here, by the engine or by what stands in."""
        return self.runtime.capabilities().enforces

    def containers(self) -> list[str]:
        """The engine's containers whose state would be in this test's directory."""
        found = self.runtime.manager.containers({})
        here = str(self.places.state)
        return [one["Names"][0] for one in found if one["Labels"].get(STATE, "").startswith(here)]

    def close(self) -> None:
        for handle in self._started:
            handle.remove()
        self.runtime.close()
        self.places.release()


@contextmanager
def clean_jobs(root: Path, name: str) -> Iterator[Jobs]:
    """`Jobs` on the tests' own engine ``name``; afterwards nothing of them may be left."""
    made = Jobs(root, engine_socket(name), engine=name)
    yield made
    made.close()
    assert made.places.left_behind() == []
    assert made.containers() == []
    # who was asked to start a container that did not start lets go of it when it ends
    wait_until(lambda: not made.places.leases_held(), timeout=15, what="no lease held")
