"""A node's slots, and how the Celery worker of each is started."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import worker
from tasks.settings import Settings
from worker.config import NodeConfig
from worker.node.paths import NodePaths
from worker.node.restarts import RestartPolicy

PRELOADED: Final = (
    "worker.celery",
    "worker.consumer",
    "celery.bin.celery",
    "celery.apps.worker",
    "celery.concurrency.prefork",
    "celery.worker.strategy",
    "kombu.transport.redis",
    "cryptography.hazmat.primitives.serialization",
)
"""What every slot worker imports, so that it is imported once."""


MARGIN_S: Final = 15.0
"""Seconds that a slot worker has to end beside what its job may take: an engine is slow, Redis is
away."""


class SlotKind(StrEnum):
    """What a slot's devices are."""

    CPU = "cpu"
    CUDA = "cuda"
    ROCM = "rocm"


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """A set of devices, served by one worker."""

    name: str
    """Such as ``cpu0`` or ``gpu2-3``."""
    kind: SlotKind = SlotKind.CPU
    devices: tuple[str, ...] = ()
    """UUIDs; empty for a CPU slot."""
    gpu_memory_mb: int = 0
    """The most memory of each of its devices that a job can have, MiB."""
    retired: bool = False
    """It takes no job but those that it runs already."""
    hands_back: bool = False
    """And those go back to the queue."""


def kind_of(slot: str) -> str:
    """``cpu`` for ``cpu0``: the letters that a slot's name begins with, as the cluster counts."""
    return re.match("[a-z]*", slot)[0] or "other"  # type: ignore[index]  # it matches anything


def cpu_slots(count: int) -> tuple[Slot, ...]:
    """``cpu0`` and on."""
    return tuple(Slot(name=f"cpu{number}") for number in range(count))


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """How slot workers are started."""

    command: Callable[[Slot], list[str]]
    env: Mapping[str, str]
    """Their whole environment but for CYXWIZ_SLOT and TMPDIR."""
    digest: str
    """Of what they are started with: a worker that has another one is replaced."""
    log_to_stderr: bool = False
    restarts: RestartPolicy = field(default_factory=RestartPolicy)
    kill_after: float = MARGIN_S
    """Seconds between SIGQUIT and SIGKILL where a job is handed back."""

    def digest_for(self, slot: Slot) -> str:
        """Of all that the worker of ``slot`` is started with."""
        if not slot.devices and not slot.retired:
            return self.digest
        content = [self.digest, slot.kind, *slot.devices, slot.gpu_memory_mb]
        if slot.retired:
            content.append("retired")
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def celery_command(
    node: str, *, app: str = "worker", loglevel: str = "INFO"
) -> Callable[[Slot], list[str]]:
    """The command line of a node's Celery workers.

    Gossip and mingle are off, since nothing uses them and each costs connections. Heartbeats and
    events stay: Flower lists workers by them. No soft shutdown: the agent has waited already, and
    Celery sleeps its whole length before it tells the job.
    """

    def command(slot: Slot) -> list[str]:
        return [
            *(sys.executable, "-m", "celery", "-A", app, "worker"),
            f"--hostname={slot.name}@{node}",
            *("--pool=prefork", "--concurrency=1", "--task-events"),
            *("--without-gossip", "--without-mingle", f"--loglevel={loglevel}"),
            *("--", "worker.soft_shutdown_timeout=0"),
        ]

    return command


def celery_env(
    config: NodeConfig,
    settings: Settings,
    *,
    config_path: Path | None,
    inherited: Mapping[str, str],
) -> dict[str, str]:
    """The environment of slot workers, but for what each has of its own (`slot_env`).

    ``inherited`` is the agent's.
    """
    env = {key: value for key, value in inherited.items() if key != "NOTIFY_SOCKET"}
    env |= {
        "CYXWIZ_NODE": config.node.name,
        "CYXWIZ_STATE_DIR": str(config.node.state_dir),
        "CYXWIZ_REDIS_URL": settings.redis_url,
        "CYXWIZ_PREFIX": settings.prefix,
        "CYXWIZ_LEASE_TTL": f"{settings.lease_ttl_ms / 1000:g}",
        "CYXWIZ_RESULT_TTL": str(settings.result_ttl_s),
        "CYXWIZ_AGENT_PID": str(os.getpid()),
    }
    if config_path is not None:
        env["CYXWIZ_CONFIG"] = str(config_path.absolute())
    root = Path(worker.__file__).resolve().parents[1]
    if root.name not in ("site-packages", "dist-packages"):
        # a checkout that is not installed: the workers' own directory is elsewhere
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (str(root), env.get("PYTHONPATH"))))
    return env


def slot_env(launch: Launch, slot: Slot, paths: NodePaths) -> dict[str, str]:
    """The whole environment of the slot's worker."""
    own = {"CYXWIZ_SLOT": slot.name}
    if slot.devices:
        own |= {
            "CYXWIZ_SLOT_KIND": slot.kind,
            "CYXWIZ_SLOT_DEVICES": ",".join(slot.devices),
            "CYXWIZ_SLOT_GPU_MEMORY_MB": str(slot.gpu_memory_mb),
        }
    if slot.retired:
        own["CYXWIZ_SLOT_RETIRED"] = "1"
    if slot.hands_back:
        own["CYXWIZ_SLOT_HANDS_BACK"] = "1"
    # a pool child that is killed leaves directories in its TMPDIR: nobody would clear the host's
    return {**launch.env, **own, "TMPDIR": str(paths.slot_temp(slot.name))}


def digest_of(config: NodeConfig, settings: Settings) -> str:
    """Of all that a slot worker is started with: with another one it has to be replaced."""
    content = [
        config.model_dump(mode="json"),
        settings.redis_url,
        settings.prefix,
        settings.lease_ttl_ms,
        settings.result_ttl_s,
        program_version(),
        sys.executable,
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def program_version() -> str:
    """The version of this distribution; '' in a checkout that is not installed."""
    try:
        return version("cyxwiz-worker")
    except PackageNotFoundError:
        return ""
