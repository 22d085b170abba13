"""What a queue's jobs need, in words, and what is missing where no live node gives it. Pure.

Which queues the live nodes read is known to Redis (`Keys.serving`). Where nobody reads a job's own
queue, the queues of jobs that ask for a little less say what it is that nobody has.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from tasks.choices import Device
from tasks.ladders import SandboxClass, rungs
from tasks.routing import QueueClass

_LESS_CONFINED = {
    SandboxClass.GVISOR: (SandboxClass.REQUIRED, SandboxClass.OPTIONAL),
    SandboxClass.REQUIRED: (SandboxClass.OPTIONAL,),
    SandboxClass.OPTIONAL: (),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """How to say that no live node can serve a queue."""

    otherwise: str
    """What is missing where none of `less` is read either."""
    less: tuple[tuple[str, str], ...] = ()
    """Queues that ask for less, nearest first, and what is missing where a live node reads one."""

    def as_args(self) -> tuple[str, ...]:
        """As the script `submit` takes them."""
        return (self.otherwise, *(text for pair in self.less for text in pair))


@lru_cache(maxsize=1024)  # a producer submits to few queues again and again
def needs_of(queue: str) -> Needs:
    """The needs of the jobs in ``queue``, a class or a node's own."""
    try:
        wanted = QueueClass.from_name(queue)
    except ValueError:
        _, _, node = queue.partition(".")
        return Needs(otherwise=f"node {node.partition('.')[0]} is not there, or takes no jobs")
    found = tuple((less.name, text) for less, text in _less(wanted))
    return Needs(otherwise=f"no live node gives {describe(wanted)}", less=found)


def describe(wanted: QueueClass) -> str:
    """The class in words: ``1 cuda GPU of 24000 MB, confined, in pool lab-a``."""
    parts = [_device(wanted)]
    match wanted.sandbox:
        case SandboxClass.GVISOR:
            parts.append("confined by gVisor")
        case SandboxClass.REQUIRED:
            parts.append("confined, or natively by its operator's choice")
        case SandboxClass.OPTIONAL:
            parts.append("natively for a trusted job, or confined")
    if wanted.pool:
        parts.append(f"in pool {wanted.pool}")
    return ", ".join(parts)


def _device(wanted: QueueClass) -> str:
    if wanted.device.is_gpu:
        many = "s" if wanted.width > 1 else ""
        return f"{wanted.width} {wanted.device} GPU{many} of {wanted.memory_mb} MB"
    what = "a CPU slot" if wanted.device is Device.CPU else "a slot"
    return what + (f" with {wanted.memory_mb} MB of memory" if wanted.memory_mb else "")


def _less(wanted: QueueClass) -> Iterator[tuple[QueueClass, str]]:
    """Classes that ask for one thing less, and the words for that thing."""
    memory = "GPU memory" if wanted.device.is_gpu else "memory"
    for sandbox in _LESS_CONFINED[wanted.sandbox]:
        rung = rungs(wanted.device, sandbox)[0]
        how = "confine it by gVisor" if wanted.sandbox is SandboxClass.GVISOR else "confine it"
        yield replace(wanted, sandbox=sandbox, memory_mb=rung), f"no live node can {how}"
    lowest = rungs(wanted.device, wanted.sandbox)[0]
    small = replace(wanted, memory_mb=lowest)
    if wanted.memory_mb > lowest:
        yield small, f"no live node has {wanted.memory_mb} MB of {memory} for one job"
    for width in (1, 2, 4, 8):
        if wanted.device.is_gpu and width != wanted.width:
            yield (
                replace(small, width=width),
                f"no live node has a slot of {wanted.width} {wanted.device} GPUs",
            )
    if wanted.pool:
        yield replace(small, pool=""), f"no live node of pool {wanted.pool} can take it"
    if wanted.device.is_gpu:
        cpu = replace(small, device=Device.CPU, width=0, memory_mb=0)
        yield cpu, f"no live node has a {wanted.device} GPU"
