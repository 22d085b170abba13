"""Which queue a job waits in, and which queues a slot reads. Pure: no Redis, no Celery.

A queue is a capability class: the least that a job needs. Its name begins with a rank, so that a
plain string sort (kombu's strategy ``sorted``) puts the most demanding class first::

    work.0-98-9976000-1.cuda-x1-24000mb-required            (pool "")
    work.1-99-9993856-1.cpu-x0-6144mb-required.lab-a        (pool "lab-a")
         │ │  │       └ sandbox: 0 gvisor, 1 required, 2 optional
         │ │  └ memory, counted down: GPU memory of each device, else host memory
         │ └ width, counted down
         └ device: 0 a GPU, 1 cpu, 2 any

A slot's two direct queues sort before every class, its own first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tasks.choices import Device
from tasks.job import JobConfig
from tasks.ladders import MOST_CLASSES, SandboxClass, rung_for, rungs, sandbox_class

CLASSES: Final = "work."
"""What the names of queues of classes begin with."""
_TOP_WIDTH: Final = 99
_TOP_MEMORY: Final = 9_999_999
_DEVICE_RANK: Final = {Device.CUDA: 0, Device.ROCM: 0, Device.CPU: 1, Device.ANY: 2}
_SANDBOX_RANK: Final = {
    SandboxClass.GVISOR: 0,
    SandboxClass.REQUIRED: 1,
    SandboxClass.OPTIONAL: 2,
}
_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_QUEUE: Final = re.compile(
    r"work\.\d-\d\d-\d{7}-\d"
    r"\.(?P<device>[a-z]+)-x(?P<width>\d+)-(?P<memory>\d+)mb-(?P<sandbox>[a-z]+)"
    r"(?:\.(?P<pool>[a-z0-9-]+))?"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueClass:
    """The least that the jobs of one queue need."""

    device: Device
    sandbox: SandboxClass
    memory_mb: int
    """A rung: GPU memory of each device for cuda and rocm, else host memory; MiB."""
    width: int
    """How many GPUs, exactly; 0 for cpu and any."""
    pool: str = ""

    @property
    def name(self) -> str:
        """The queue's name."""
        rank = (
            f"{_DEVICE_RANK[self.device]}-{_TOP_WIDTH - self.width:02d}"
            f"-{_TOP_MEMORY - self.memory_mb:07d}-{_SANDBOX_RANK[self.sandbox]}"
        )
        demand = f"{self.device}-x{self.width}-{self.memory_mb}mb-{self.sandbox}"
        return f"{CLASSES}{rank}.{demand}" + (f".{self.pool}" if self.pool else "")

    @classmethod
    def from_name(cls, name: str) -> QueueClass:
        """The class of the queue ``name``. ValueError if it is no class queue's name."""
        match = _QUEUE.fullmatch(name)
        if match:
            try:
                found = cls(
                    device=Device(match["device"]),
                    sandbox=SandboxClass(match["sandbox"]),
                    memory_mb=int(match["memory"]),
                    width=int(match["width"]),
                    pool=match["pool"] or "",
                )
            except ValueError:
                found = None
            if found is not None and found.name == name:
                return found
        raise ValueError(f"{name!r} is not the name of a queue of jobs")


@dataclass(frozen=True, kw_only=True, slots=True)
class SlotOffer:
    """What one slot of a node can give to one job."""

    device: Device
    """cpu, cuda or rocm."""
    memory_mb: int
    """The most host memory that one job in this slot may have, MiB."""
    sandboxes: frozenset[SandboxClass]
    """Which sandbox classes the node may serve; see `worker.sandbox.policy`."""
    gpu_memory_mb: int = 0
    """What the smallest of its devices has, MiB; 0 for a CPU slot."""
    width: int = 0
    """How many GPUs; 0 for a CPU slot."""
    pool: str = ""

    def __post_init__(self) -> None:
        if self.device is Device.ANY:
            raise ValueError("a slot is made of cpu, cuda or rocm, not of any")
        if self.device.is_gpu != (0 < self.width <= _TOP_WIDTH):
            raise ValueError(f"a {self.device} slot cannot have {self.width} GPUs")
        if self.device is Device.CPU and self.gpu_memory_mb:
            raise ValueError("a cpu slot has no GPU memory")
        if self.memory_mb < 0 or self.gpu_memory_mb < 0:
            raise ValueError("memory cannot be negative")
        if self.pool:
            _checked("pool", self.pool)


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """Where a job waits."""

    queue: str
    priority_step: int
    """kombu's priority step; 0 is served first."""


def queue_class(job: JobConfig) -> QueueClass:
    """The class of a job. Total: `JobConfig` refuses what no ladder covers."""
    device = job.required_device
    sandbox = sandbox_class(job.sandbox, signed=job.signature is not None)
    ask = job.gpu_memory_mb if device.is_gpu else job.memory_mb
    rung = rung_for(device, sandbox, ask)
    if rung is None:  # only for a config that was built without validation
        raise ValueError(f"no queue covers {ask} MB of memory for {device}, {sandbox}")
    return QueueClass(
        device=device, sandbox=sandbox, memory_mb=rung, width=job.width, pool=job.pool
    )


def route(job: JobConfig) -> Route:
    """The queue of a job's class, and its priority step in it."""
    return Route(queue=queue_class(job).name, priority_step=job.priority.step)


def satisfies(offer: SlotOffer, wanted: QueueClass) -> bool:
    """Whether any job of the class ``wanted`` may be given to the slot."""
    if wanted.pool != offer.pool or wanted.sandbox not in offer.sandboxes:
        return False
    if wanted.device is Device.ANY:
        return wanted.memory_mb <= offer.memory_mb
    if wanted.device is not offer.device or wanted.width != offer.width:
        return False
    size = offer.gpu_memory_mb if offer.device.is_gpu else offer.memory_mb
    return wanted.memory_mb <= size


def classes_for(offer: SlotOffer) -> list[QueueClass]:
    """Every class that the slot satisfies, most demanding first; at most `MOST_CLASSES`."""
    classes = [wanted for wanted in _near(offer) if satisfies(offer, wanted)]
    if len(classes) > MOST_CLASSES:  # the ladders are wrong; dropping one would starve its jobs
        raise AssertionError(f"{len(classes)} classes for {offer}")
    return sorted(classes, key=lambda wanted: wanted.name)


def direct_queue(node: str) -> str:
    """The queue that all slots of ``node`` read. ValueError for a name that cannot be one."""
    return f"to.{_checked('node', node)}"


def slot_queue(node: str, slot: str) -> str:
    """The queue that only this slot reads, for adoption."""
    return f"slot.{_checked('node', node)}.{_checked('slot', slot)}"


def _near(offer: SlotOffer) -> Iterator[QueueClass]:
    """All classes of the offer's device, width and pool, and those of `any`."""
    for device, width in ((offer.device, offer.width), (Device.ANY, 0)):
        for sandbox in SandboxClass:
            for rung in rungs(device, sandbox):
                yield QueueClass(
                    device=device, sandbox=sandbox, memory_mb=rung, width=width, pool=offer.pool
                )


def _checked(what: str, name: str) -> str:
    if not _LABEL.fullmatch(name):
        raise ValueError(
            f"{what} {name!r}: 1 to 63 of a-z, 0-9 and -, beginning and ending with a-z or 0-9"
        )
    return name
