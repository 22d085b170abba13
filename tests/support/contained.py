"""A live node whose jobs run in containers, and what its engine says of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import docker
from celery.result import AsyncResult

from tests.support import engine
from tests.support.cluster import Cluster
from tests.support.live_node import LiveNode
from tests.support.waiting import wait_until
from worker.runtimes.engine.settings import JOB, STATE


def sections(socket: Path) -> dict[str, dict[str, Any]]:
    """Of server-node.yaml: every job in a container of the engine at ``socket``."""
    return {
        "execution": {"mode": "auto", "allow_untrusted_native": False},
        "docker": {
            "socket": str(socket),
            "pull_policy": "never",
            "preload_images": [],
            "default_limits": {"memory_mb": 512, "cpu_cores": 1, "shm_size_mb": 32, "pids": 128},
        },
    }


@dataclass
class Contained:
    """``cluster`` submits to the node; ``raw`` is docker-py itself."""

    cluster: Cluster
    raw: docker.APIClient

    @classmethod
    def start(
        cls,
        directory: Path,
        redis_url: str,
        socket: Path,
        *,
        extra: Mapping[str, Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> Self:
        """``extra``: sections of server-node.yaml; ``options``: of `LiveNode`."""
        found = sections(socket)
        for name, section in (extra or {}).items():
            found[name] = {**found.get(name, {}), **section}
        node = LiveNode(directory=directory, redis_url=redis_url, extra=found, **options)
        try:
            return cls(Cluster.of(node.start()), engine.raw(socket))
        except BaseException:
            node.close()
            raise

    @property
    def node(self) -> LiveNode:
        return self.cluster.node

    def containers(self) -> list[dict[str, Any]]:
        """The engine's containers of this node's attempts, running or not."""
        here = str(self.node.paths.state_dir)
        found: list[dict[str, Any]] = self.raw.containers(all=True)
        return [one for one in found if str(one["Labels"].get(STATE, "")).startswith(here)]

    def container(self, job: AsyncResult, *, but: str = "") -> dict[str, Any]:
        """What the engine says of the job's running container. ``but``: the id of one that is not
        meant."""

        def running() -> list[dict[str, Any]]:
            found = [one for one in self.containers() if one["Labels"][JOB] == job.id]
            return [one for one in found if one["State"] == "running" and one["Id"] != but]

        wait_until(running, timeout=30, what=f"a container of {job.id}")
        found: dict[str, Any] = self.raw.inspect_container(running()[0]["Id"])
        return found

    def deliver(self, job: AsyncResult) -> None:
        """Put the job's message where the node reads whatever it offers: its own queue."""
        records = self.cluster.app.records
        raw = records.client.hget(records.keys.job(job.id), "message")
        assert isinstance(raw, str)
        records.client.lpush(records.keys.message_list("to.node-a", 0), raw)

    def wait_clean(self) -> None:
        """Nothing of any attempt is left, on the node or in the engine."""
        self.cluster.wait_clean()
        wait_until(lambda: not self.containers(), timeout=15, what="no container left")

    def close(self) -> None:
        self.cluster.close()
        self.node.close()
        self.raw.close()
