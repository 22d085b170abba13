"""A whole node as its operator starts it, ``cyxwiz node``, for end-to-end tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.support.nodes import gone, serving
from tests.support.waiting import wait_until
from worker.keeper import lock, procfs
from worker.node.paths import NodePaths


@dataclass(kw_only=True)
class LiveNode:
    """One node: its directory, its configuration and the process of ``cyxwiz node``."""

    directory: Path
    redis_url: str
    prefix: str = "cyxwiz:"
    name: str = "node-a"
    slots: int = 1
    lease_ttl: float = 6.0
    lease_grace: float = 3.0
    stop_grace: float = 1.0
    extra: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Sections of server-node.yaml, over the ones above."""
    env: Mapping[str, str] = field(default_factory=dict)
    python: str = sys.executable
    """Of the version that it is of."""
    within: Sequence[str] = ()
    """What its command line begins with: a program that becomes it."""
    process: subprocess.Popen[bytes] | None = None
    _starts: int = 0

    @property
    def paths(self) -> NodePaths:
        return NodePaths(state_dir=self.directory / "state")

    @property
    def log(self) -> Path:
        return self.directory / "node.err"

    @property
    def said(self) -> str:
        """What it told people, and its log."""
        out = self.directory / "node.out"
        return (out.read_text() if out.exists() else "") + self.log.read_text()

    def write_config(self) -> Path:
        sections: dict[str, dict[str, Any]] = {
            "execution": {"mode": "native", "allow_untrusted_native": True},
            "node": {"name": self.name, "state_dir": str(self.directory / "state")},
            "slots": {"cpu": self.slots},
            "redis": {"url": self.redis_url, "prefix": self.prefix},
            "storage": {"roots": [str(self.directory / "data")]},
            "timeouts": {
                "lease_ttl": self.lease_ttl,
                "lease_grace": self.lease_grace,
                "stop_grace": self.stop_grace,
            },
        }
        for name, section in self.extra.items():
            sections[name] = {**sections.get(name, {}), **section}
        (self.directory / "data").mkdir(parents=True, exist_ok=True)
        path = self.directory / "server-node.yaml"
        path.write_text(yaml.safe_dump(sections))
        return path

    def start(self) -> LiveNode:
        """Start it; returns once every slot takes jobs."""
        self.launch()
        self.wait_ready()
        return self

    def launch(self) -> None:
        """Start it, and wait for nothing."""
        config = self.write_config()
        with (self.directory / "node.out").open("ab") as out, self.log.open("ab") as err:
            self.process = subprocess.Popen(
                [*self.within, self.python, "-m", "worker.cli", "node", "--config", str(config)],
                stdout=out,
                stderr=err,
                cwd=self.directory,
                env={**_outer_env(), **self.env},
            )
        self._starts += 1

    def wait_ready(self) -> None:
        """Its last start has come to its end."""

        def ready() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.said
            return self.said.count("node ready\n") == self._starts

        wait_until(ready, timeout=90, what="the node's slots")

    def worker(self, slot: str = "cpu0") -> int | None:
        """The pid of the slot's Celery worker that takes jobs; None while there is none."""
        try:
            pid = int(self.paths.slot_ready(slot).read_text())
        except (OSError, ValueError):
            return None
        return None if gone(pid) else pid

    def pool_child(self, slot: str = "cpu0") -> int:
        """The pid of the worker's pool child: its only child that runs Python's billiard."""
        worker = self.worker(slot)
        assert worker is not None
        found = [pid for pid in procfs.children(worker) or () if not gone(pid)]
        assert len(found) == 1, found
        return found[0]

    def job_pids(self) -> list[int]:
        """The processes of its jobs."""
        return job_processes(self.paths.state_dir)

    def keeper(self, attempt: Path) -> int:
        """The pid of the keeper of the attempt with this state directory."""
        wait_until(lambda: lock.read(attempt) is not None, what="its keeper's record")
        record = lock.read(attempt)
        assert record is not None
        return record.pid

    def stopped(self, pid: int) -> bool:
        """Whether the process stands still by SIGSTOP."""
        entry = procfs.process(pid)
        return entry is not None and entry.stopped

    def kill_everything(self) -> None:
        """As if the power had failed, but for what ends by itself: agent, workers, children."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)
        for pid in serving(self.paths.state_dir):
            os.kill(pid, signal.SIGKILL)

    def stop(self, timeout: float = 30.0) -> int:
        """SIGTERM, as an operator would; its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def command(self, *arguments: str) -> int:
        """The exit code of a ``cyxwiz`` command with this node's configuration."""
        done = subprocess.run(
            [self.python, "-m", "worker.cli", *arguments],
            cwd=self.directory,
            env={**_outer_env(), "CYXWIZ_CONFIG": str(self.directory / "server-node.yaml")},
            timeout=60,
        )
        return done.returncode

    def leave(self, timeout: float = 30.0) -> int:
        """As for an upgrade: it ends, and its jobs go on until it is started again."""
        assert self.process is not None
        self.process.send_signal(signal.SIGUSR1)
        return self.process.wait(timeout)

    def close(self) -> None:
        """End whatever is left of it."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            try:
                self.stop(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
        for pid in serving(self.paths.state_dir):
            os.kill(pid, signal.SIGKILL)

    def leftovers(self) -> dict[str, list[str]]:
        """What attempts left on this host, by kind; {} when there is nothing."""
        found = {
            "processes": [
                f"{pid} {procfs.read_bytes(f'/proc/{pid}/cmdline')!r}"
                for pid in job_processes(self.paths.state_dir)
            ],
            "attempts": _names(self.paths.attempts),
            "work": _names(self.paths.work),
            "jobs": _names(self.paths.jobs),
        }
        return {kind: names for kind, names in found.items() if names}


def job_processes(state_dir: Path) -> list[int]:
    """Living processes that the jobs of the node with this state directory started."""
    marker = f"CYXWIZ_OUTPUT={state_dir}/".encode()
    found = []
    for pid in procfs.pids():
        environ = procfs.read_bytes(f"/proc/{pid}/environ") or b""
        if any(one.startswith(marker) for one in environ.split(b"\0")) and not gone(pid):
            found.append(pid)
    return found


def _outer_env() -> dict[str, str]:
    """Without what the tests have set for themselves: the file is the node's configuration."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CYXWIZ_")}


def _names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []
