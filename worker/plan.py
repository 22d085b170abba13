"""What is passed between the parts of a node: frozen, keyword-only, explained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptId:
    """One run of a job. The fence rises with every claim, so the pair names it for ever."""

    job_id: str
    fence: int

    def __str__(self) -> str:
        return f"{self.job_id}~{self.fence}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What an attempt may use. 0 means the node's cap was 0: no limit of that kind."""

    memory_mb: int = 0
    """Resident memory of all its processes together, MiB."""
    cpu_cores: float = 0.0
    shm_size_mb: int = 0
    """/dev/shm of a container, MiB."""
    pids: int = 0
    """Processes and threads at once."""
    nofile: int = 65_536
    """Open files of each process."""
    output_mb: int = 0
    """All files that it has in output and checkpoints together, MiB; about as much is the most that
    a single file may have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mount:
    """A host directory shown to the job."""

    source: Path
    target: str
    """The path inside a container; native jobs get ``source`` by an environment variable."""
    read_only: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Grant:
    """Devices, with all that a job needs to see them, held on the node by open lease files."""

    slot: str
    """The slot's name, such as ``cpu0``."""
    devices: tuple[str, ...] = ()
    """Device UUIDs; empty for a CPU slot."""
    env: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    via: str = ""
    """How a container engine is asked for the devices: see `worker.runtimes.engine.gpus`."""
    nodes: tuple[str, ...] = ()
    """Device nodes that a container needs for them, such as ``/dev/kfd``."""
    fds: tuple[int, ...] = ()
    """Open flock'd lease files: whoever has one of them open holds the grant."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SecretFiles:
    """Secrets for one attempt, each a file of its name."""

    place: Path
    """A directory in memory, which is not there yet."""
    values: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchPlan:
    """All that a runtime needs to start one attempt; it asks for nothing else."""

    attempt: AttemptId
    argv: tuple[str, ...]
    env: Mapping[str, str]
    """The job's whole environment: nothing is inherited from the node."""
    data: Path | None
    """Read-only data directory, or None where the job has none of its own."""
    checkpoints: Path
    output: Path
    scratch: Path
    """HOME, TMPDIR and the working directory of a native attempt; removed with it."""
    state: Path
    """The attempt's directory under the node's state: keeper's socket and lock."""
    limits: Limits
    grant: Grant
    image: str | None = None
    """As the allow-list knows it; None for native attempts."""
    image_id: str = ""
    """The engine's id of it; '': whatever ``image`` means when the attempt starts."""
    gvisor: bool = False
    """It shall have gVisor's kernel, or not start."""
    network: str = ""
    """The engine's network that it joins; '': none."""
    also_images: tuple[str, ...] = ()
    """Patterns of images that this attempt may run beside those of ``images.allow``."""
    mounts: tuple[Mount, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    secrets: SecretFiles | None = None
    """The runtime writes them, and whoever clears up removes them."""


class StopCause(StrEnum):
    """Who ended an attempt, when it did not end by itself."""

    REQUESTED = "requested"
    """stop() or kill(): cancel, time-out, stall, shutdown. The supervisor knows which."""
    FENCED = "fenced"
    """The lease went to somebody else."""
    DEADLINE = "deadline"
    """The lease's local deadline passed and there is no pause here."""
    ABANDONED = "abandoned"
    """No supervisor for longer than TTL + grace."""
    MEMORY = "memory"
    """The memory limit (the keeper's watchdog or the kernel)."""
    PIDS = "pids"
    OUTPUT = "output"
    """The cap on output or checkpoints."""
    ENGINE = "engine"
    """The container engine went away, and the container ended meanwhile or is gone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExitStatus:
    """How an attempt's main process ended: evidence, no judgement."""

    code: int | None
    """Exit code, or None if a signal ended it (or it never started)."""
    signal: int | None = None
    cause: StopCause | None = None
    oom: bool = False
    """The kernel or the engine counted an out-of-memory kill in it."""
    error: str = ""
    """Why it could not be started at all; '' if it was."""
    cpu_seconds: float = 0.0
    max_rss_mb: float = 0.0
    wall_seconds: float = 0.0
