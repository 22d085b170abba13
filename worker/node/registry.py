"""The node's entry in Redis: what it offers, alive as long as its heartbeat."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform as host
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from typing import Any, Final

import redis

from tasks.errors import NodeConflict
from tasks.keys import NODE_TTL_S, Keys
from worker.node.identity import NodeIdentity
from worker.node.log import event

RECORD_VERSION: Final = 1

SANDBOX_NONE: Final = 0
"""No container engine was shown to keep its promises."""


def usable_cores() -> int:
    """Cores that this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(affinity(0)) if affinity else os.cpu_count() or 1


@cache
def host_memory_mb() -> int:
    """Memory of the host, MiB."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20


@cache
def program_versions() -> Mapping[str, str]:
    """The versions of this program and of what it speaks with."""
    found = {}
    for name in ("cyxwiz-worker", "celery", "redis"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


class NodeState(StrEnum):
    """Whether the node takes jobs."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    """It stops."""
    CORDONED = "cordoned"
    """It takes no new job until it is told otherwise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SlotEntry:
    """One slot as others see it."""

    name: str
    kind: str
    state: str
    """waiting, starting, ready, draining, quitting or stopped."""
    devices: tuple[str, ...] = ()
    """The UUIDs of its devices; empty for a CPU slot."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuEntry:
    """One device as others see it."""

    uuid: str
    kind: str
    """cuda or rocm."""
    name: str
    memory_mb: int
    used_mb: int
    utilisation: int | None = None
    """Percent."""
    temperature_c: int | None = None
    parent: str = ""
    """Of a MIG instance: the UUID of its GPU."""
    jobs: int = 0
    """How many have it now."""
    wrong: str = ""
    """Why it is given to nobody; '' if it is well."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """What a node takes now: the cluster's indexes are made of it."""

    queues: tuple[str, ...] = ()
    """That its slots read."""
    slots: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The slots that take jobs, by kind."""

    def to_json(self) -> str:
        # without what is empty: Lua's decoder cannot tell an empty list from an empty object
        said = {"queues": self.queues, "slots": {k: v for k, v in self.slots.items() if v}}
        return json.dumps({k: v for k, v in said.items() if v}, separators=(",", ":"))


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeRecord:
    """What a node offers, as producers and monitors read it."""

    name: str
    node_id: str
    instance: str
    state: NodeState
    started: float
    """Seconds since the epoch, by the node's clock."""
    hostname: str
    pid: int
    slots: tuple[SlotEntry, ...]
    pool: str
    labels: Mapping[str, str]
    mode: str
    """execution.mode."""
    v: int = RECORD_VERSION
    platform: str = field(default_factory=host.platform)
    machine: str = field(default_factory=host.machine)
    python: str = field(default_factory=host.python_version)
    versions: Mapping[str, str] = field(default_factory=program_versions)
    cpu_count: int = field(default_factory=usable_cores)
    memory_mb: int = field(default_factory=host_memory_mb)
    sandbox_level: int = SANDBOX_NONE
    docker_available: bool = False
    podman_available: bool = False
    nvidia_container_toolkit: bool = False
    container_images: tuple[str, ...] = ()
    offer: Offer = field(default_factory=Offer)
    gpus: tuple[GpuEntry, ...] = ()
    no_gpus: str = ""
    """Why there are no GPUs, or not all."""

    def to_json(self) -> str:
        """Without the offer, which the indexes have."""
        said = {name: value for name, value in asdict(self).items() if name != "offer"}
        return json.dumps(said, separators=(",", ":"))


class NodeRegistry:
    """Writes one node's entry. `redis.RedisError` passes through; nothing retries here."""

    def __init__(
        self,
        client: redis.Redis,
        keys: Keys,
        identity: NodeIdentity,
        *,
        ttl_ms: int = NODE_TTL_S * 1000,
    ) -> None:
        self._identity = identity
        self._keys = [keys.node(identity.name), keys.nodes]
        self._prefix = keys.prefix
        self._ttl_ms = ttl_ms
        self._beat = client.register_script(_script("beat"))
        self._leave = client.register_script(_script("leave"))

    @property
    def ttl_ms(self) -> int:
        """How long the entry stays without a beat."""
        return self._ttl_ms

    def beat(self, record: NodeRecord) -> str:
        """Write the entry for another TTL; the first beat registers.

        Returns what is asked of the node (`tasks.cordons`), or ''.

        Raises:
            NodeConflict: another live node has the name; nothing was written.
        """
        who = self._identity
        args: list[str | int] = [who.name, who.instance, who.node_id, who.boot_id]
        args += [who.hostname, who.pid, self._ttl_ms, record.to_json()]
        args += [self._prefix, record.offer.to_json()]
        answer: list[Any] = self._beat(keys=self._keys, args=args)
        if int(answer[0]) == 0:
            host, pid, age = _text(answer[1]), _text(answer[2]), int(answer[3])
            raise NodeConflict(
                f"node name {who.name!r} is taken: a live node has it, on host {host} with pid "
                f"{pid} (last heartbeat {age / 1000:.0f} s ago); give this one another node.name, "
                "or stop that one"
            )
        return _text(answer[1])

    def leave(self) -> None:
        """Remove the entry, unless it is another's. Safe to call twice."""
        self._leave(
            keys=self._keys, args=[self._identity.name, self._identity.instance, self._prefix]
        )


class Heartbeat:
    """Beats on a thread of its own; a Redis that is away is waited out."""

    def __init__(
        self,
        registry: NodeRegistry,
        record: Callable[[], NodeRecord],
        told: Callable[[str], None] = lambda asked: None,
    ) -> None:
        """Both are called from the thread, at each beat.

        ``record``: says what to write. ``told``: takes what is asked of the node.
        """
        self._registry = registry
        self._record = record
        self._told = told
        self._wake = threading.Event()
        self._stopping = False
        self._trouble = ""
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def now(self) -> None:
        """Beat at once: something has changed."""
        self._wake.set()

    def stop(self) -> None:
        """Safe to call twice, and before `start`."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while True:
            self._wake.wait(self._registry.ttl_ms / 3000)
            self._wake.clear()
            if self._stopping:
                return
            self._beat()

    def _beat(self) -> None:
        try:
            asked = self._registry.beat(self._record())
        except (redis.RedisError, NodeConflict) as error:
            if type(error).__name__ != self._trouble:  # once, not at every beat
                event("node.heartbeat_failed", level=logging.WARNING, error=str(error))
            self._trouble = type(error).__name__
        else:
            if self._trouble:
                event("node.heartbeat_resumed")
            self._trouble = ""
            self._told(asked)


def _script(name: str) -> str:
    return files("worker.node").joinpath("lua", f"{name}.lua").read_text()


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
