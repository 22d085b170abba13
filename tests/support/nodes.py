"""Agents for tests: in a process of their own, with stand-ins for Celery workers or real ones."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tasks.settings import Settings
from tests.support.waiting import wait_until
from worker.config import NodeConfig
from worker.keeper import procfs
from worker.node import log
from worker.node.agent import Agent
from worker.node.paths import NodePaths
from worker.node.restarts import RestartPolicy
from worker.node.slots import Slot, celery_command

STAND_IN = Path(__file__).with_name("stand_in_worker.py")


def stand_in(*modes: str) -> list[str]:
    """The command line of a stand-in for a Celery worker."""
    return [sys.executable, "-I", "-S", str(STAND_IN), *modes]


@dataclass(kw_only=True)
class NodeSpec:
    """What an agent's process is told."""

    state_dir: str
    redis_url: str
    name: str = "node-a"
    cpu: int = 1
    worker: list[str] | None = field(default_factory=stand_in)
    """The command line of every slot worker; None: Celery's."""
    app: str = "worker"
    """Celery's app, where ``worker`` is None."""
    labels: dict[str, str] = field(default_factory=dict)
    drain: float | None = None
    kill_after: float = 15.0

    def config(self) -> NodeConfig:
        return NodeConfig.model_validate(
            {
                "node": {"name": self.name, "state_dir": self.state_dir, "labels": self.labels},
                "slots": {"cpu": self.cpu},
                "redis": {"url": self.redis_url},
                "timeouts": {"stop_grace": 1.0},
            }
        )

    def agent(self, **more: Any) -> Agent:
        def command(slot: Slot) -> list[str]:
            return self.worker or celery_command(self.name, app=self.app)(slot)

        return Agent(
            self.config(),
            Settings(redis_url=self.redis_url),
            command=command,
            drain=self.drain,
            kill_after=self.kill_after,
            restarts=RestartPolicy(first=0.05, most=0.2),
            **more,
        )


class AgentProcess:
    """A running agent."""

    def __init__(self, spec: NodeSpec, directory: Path) -> None:
        self.spec = spec
        self.paths = NodePaths(state_dir=Path(spec.state_dir))
        self._out = directory / f"agent-{os.urandom(4).hex()}.out"
        self._err = self._out.with_suffix(".err")
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.nodes", json.dumps(asdict(spec))],
                stdout=out,
                stderr=err,
                cwd=Path(__file__).parents[2],
            )

    @property
    def said(self) -> list[str]:
        """Its lines on stdout."""
        return self._out.read_text().splitlines()

    @property
    def errors(self) -> str:
        """What it wrote on stderr."""
        return self._err.read_text()

    @property
    def events(self) -> list[dict[str, Any]]:
        """What it logged."""
        lines = self.errors.splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def event(self, name: str) -> dict[str, Any] | None:
        """The last event of that name."""
        found = [entry for entry in self.events if entry["event"] == name]
        return found[-1] if found else None

    def wait_ready(self, timeout: float = 20.0) -> None:
        def ready() -> bool:
            assert self.process.poll() is None, self.errors
            return "node ready" in self.said

        wait_until(ready, timeout=timeout, what="node ready")

    def worker_pid(self, slot: str = "cpu0") -> int:
        """Of the slot's worker that is ready."""
        wait_until(
            lambda: self.paths.slot_ready(slot).exists() and self.paths.slot_ready(slot).read_text()
        )
        return int(self.paths.slot_ready(slot).read_text())

    def stop(self, times: int = 1, timeout: float = 20.0) -> int:
        """SIGTERM; its exit code."""
        for _ in range(times):
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)


Start = Callable[..., AgentProcess]
"""Starts an agent, which is told these of `NodeSpec`."""


@contextlib.contextmanager
def agents(directory: Path, redis_url: str, **usual: object) -> Iterator[Start]:
    """Starts agents, of one state directory unless they are told another; whatever is left of them
    ends with the test."""
    started: list[AgentProcess] = []

    def start(**more: object) -> AgentProcess:
        spec = {"state_dir": str(directory / "state"), "redis_url": redis_url, **usual, **more}
        started.append(AgentProcess(NodeSpec(**spec), directory))  # type: ignore[arg-type]  # a test's own keywords
        return started[-1]

    yield start
    for agent in started:
        if agent.process.poll() is None:
            agent.kill()
    for agent in started:
        for pid in serving(agent.paths.state_dir):
            os.kill(pid, signal.SIGKILL)


def gone(pid: int) -> bool:
    """Whether no process has that pid, but for a zombie."""
    entry = procfs.process(pid)
    return entry is None or entry.dead


def serving(state_dir: Path) -> list[int]:
    """Living processes of the node with this state directory, whoever started them."""
    marker = f"CYXWIZ_STATE_DIR={state_dir}".encode()
    found = []
    for pid in procfs.pids():
        environ = procfs.read_bytes(f"/proc/{pid}/environ") or b""
        if marker in environ.split(b"\0") and not gone(pid):
            found.append(pid)
    return found


def holders(directory: Path) -> list[str]:
    """Processes but this one that have a file beneath it open: each with its name."""
    found = []
    for pid in procfs.pids():
        with contextlib.suppress(OSError):  # it has ended
            opened = [fd.readlink() for fd in Path(f"/proc/{pid}/fd").iterdir()]
            if pid != os.getpid() and any(one.is_relative_to(directory) for one in opened):
                found.append(f"{pid} {Path(f'/proc/{pid}/comm').read_text().strip()}")
    return found


def main(text: str) -> int:
    log.configure(as_json=True)
    return NodeSpec(**json.loads(text)).agent().run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
