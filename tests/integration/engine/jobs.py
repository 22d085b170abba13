"""A node's runtime in a test, and programs for its containers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.support import engine
from tests.support.nodes import holders
from tests.support.runtimes import Heard, Places, engine_runtime_in, engine_socket, hear, soon
from tests.support.waiting import wait_until
from worker.keeper import procfs
from worker.plan import ExitStatus, LaunchPlan, Limits
from worker.runtimes.engine.handle import EngineHandle
from worker.runtimes.engine.runtime import EngineRuntime
from worker.runtimes.engine.settings import STATE

LIMITS = Limits(memory_mb=128, cpu_cores=1, shm_size_mb=16, pids=64, nofile=1024, output_mb=16)

REFUSED = """
def refused(what, do):
    try:
        do()
    except (OSError, ValueError) as error:
        print('refused', what, type(error).__name__, flush=True)
    else:
        print('DONE', what, flush=True)
"""
"""Has a program say what it was refused, and what not."""


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
        self._first: list[procfs.Process] = []
        self._secrets: list[Path] = []

    def another(self, **settings: Any) -> EngineRuntime:
        """A runtime as a successor would make it, or with other settings."""
        return engine_runtime_in(self.engine, self.places.state, self.socket, **settings)

    def plan(self, source: str, **differs: Any) -> LaunchPlan:
        """A plan for Python source, which runs without ``site``. ``differs``: of `LaunchPlan`."""
        argv = (engine.PYTHON, "-S", "-u", "-c", source)
        plan = self.places.plan(argv, differs.pop("limits", LIMITS))
        if (secrets := differs.get("secrets")) is not None:
            self._secrets.append(secrets.place)
        return replace(plan, **{"image": engine.BASE, "env": {}, **differs})

    def start(
        self, source: str, runtime: EngineRuntime | None = None, **differs: Any
    ) -> EngineHandle:
        handle = (runtime or self.runtime).start(self.plan(source, **differs), soon())
        assert isinstance(handle, EngineHandle)
        self.places.release()
        self._started.append(handle)
        first = procfs.process(handle._kept._link.job_pid)
        self._first += [] if first is None else [first]
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

    def left(self) -> dict[str, list[str]]:
        """What there is of any attempt, by kind; {} when there is nothing.

        Keepers, and those who mourn them, have files of the attempt open; all processes of a
        container die with its first.
        """
        mounts = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
        running = [procfs.process(one.pid) for one in self._first]
        found = {
            "directories": [str(path) for path in self.places.left_behind()],
            "containers": self.containers(),
            "leases": [path.name for path in self.places.leases_held()],
            "holders": holders(self.places.root),
            "processes": [
                str(now.pid)
                for now, then in zip(running, self._first, strict=True)
                if now is not None and not now.dead and now.start == then.start
            ],
            "mounts": [one for one in mounts if one.startswith(f"{self.places.root}/")],
            "secrets": [str(path) for path in self._secrets if path.exists()],
        }
        return {kind: names for kind, names in found.items() if names}

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
    # who was asked to start a container that did not start lets go of it when it ends
    wait_until(lambda: not made.left(), timeout=15, what=lambda: f"nothing left: {made.left()}")


def up(heard: Heard) -> bool:
    return b"up\n" in heard.out
