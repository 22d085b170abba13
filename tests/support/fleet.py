"""Nodes that are only entries in Redis: registered and beating as agents do, with no process."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import redis

from tasks.choices import Device
from tasks.keys import Keys
from tasks.ladders import SandboxClass
from tasks.routing import SlotOffer, classes_for, direct_queue
from worker.node.identity import NodeIdentity
from worker.node.registry import NodeRecord, NodeRegistry, NodeState, Offer, SlotEntry


@dataclass(frozen=True)
class PaperNode:
    """One node; `beat` again to keep it alive."""

    registry: NodeRegistry
    record: NodeRecord

    def beat(self) -> str:
        return self.registry.beat(self.record)

    def leave(self) -> None:
        self.registry.leave()


def cpu_offer(**differs: Any) -> SlotOffer:
    given: dict[str, Any] = {
        "device": Device.CPU,
        "memory_mb": 16_000,
        "sandboxes": frozenset({SandboxClass.REQUIRED}),
    }
    return SlotOffer(**{**given, **differs})


def gpu_offer(**differs: Any) -> SlotOffer:
    return cpu_offer(device=Device.CUDA, width=1, gpu_memory_mb=24_000, **differs)


def node(
    client: redis.Redis,
    keys: Keys,
    name: str,
    *offers: SlotOffer,
    ttl_ms: int = 30_000,
    instance: str = "i1",
    state: NodeState = NodeState.READY,
    **record: Any,
) -> PaperNode:
    """A node with a slot for each offer (default: one CPU slot), which has beaten once."""
    offers = offers or (cpu_offer(),)
    who = NodeIdentity(
        name=name,
        node_id=(re.sub("[^0-9a-f]", "", name) + "0" * 32)[:32],
        instance=instance,
        hostname=f"host-of-{name}",
        boot_id="boot-1",
        pid=17,
        started=1_000.0,
    )
    counts = {"cpu": 0, "gpu": 0}
    slots: list[SlotEntry] = []
    for one in offers:
        kind = "gpu" if one.device.is_gpu else "cpu"
        slots.append(SlotEntry(name=f"{kind}{counts[kind]}", kind=kind, state="ready"))
        counts[kind] += 1
    queues = {wanted.name for one in offers for wanted in classes_for(one)}
    made = PaperNode(
        NodeRegistry(client, keys, who, ttl_ms=ttl_ms),
        NodeRecord(
            **{
                "name": name,
                "node_id": who.node_id,
                "instance": instance,
                "state": state,
                "started": who.started,
                "hostname": who.hostname,
                "pid": who.pid,
                "slots": tuple(slots),
                "pool": offers[0].pool,
                "labels": {},
                "mode": "native",
                "offer": Offer(
                    queues=tuple(sorted({*queues, direct_queue(name)})),
                    slots={
                        kind: tuple(slot.name for slot in slots if slot.kind == kind)
                        for kind in counts
                    },
                ),
                **record,
            }
        ),
    )
    made.beat()
    return made
