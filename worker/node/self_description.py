"""What a node says of itself in the cluster: its slots, what they read, its engine and devices."""

from __future__ import annotations

from collections.abc import Sequence

from worker.config import NodeConfig
from worker.node import slot_records
from worker.node.device_care import DeviceCare
from worker.node.engine_care import EngineFacts
from worker.node.identity import NodeIdentity
from worker.node.paths import NodePaths
from worker.node.registry import NodeRecord, NodeState, Offer, SlotEntry
from worker.node.slot_worker import SlotWorker, WorkerState
from worker.node.slots import Slot, kind_of


def entries(workers: Sequence[SlotWorker], configured: Sequence[Slot]) -> tuple[SlotEntry, ...]:
    """The slots that the configuration names, and what else is served yet."""
    named = {slot.name for slot in configured}
    return tuple(
        SlotEntry(
            name=worker.slot.name,
            kind=worker.slot.kind,
            state=worker.state,
            devices=worker.slot.devices,
        )
        for worker in workers
        if worker.state is not WorkerState.STOPPED or worker.slot.name in named
    )


def offer(workers: Sequence[SlotWorker], paths: NodePaths) -> Offer:
    """What the slots that take jobs say that they read."""
    ready = [
        worker.slot
        for worker in workers
        if worker.state is WorkerState.READY and not worker.slot.retired
    ]
    read = {name for slot in ready for name in slot_records.queues(paths, slot.name)}
    kinds = sorted({kind_of(slot.name) for slot in ready})
    return Offer(
        queues=tuple(sorted(name for name in read if not name.startswith("slot."))),
        slots={kind: tuple(s.name for s in ready if kind_of(s.name) == kind) for kind in kinds},
    )


def record(
    identity: NodeIdentity,
    config: NodeConfig,
    *,
    state: NodeState,
    slots: tuple[SlotEntry, ...],
    offer: Offer,
    facts: EngineFacts,
    devices: DeviceCare,
) -> NodeRecord:
    """The node's record in Redis."""
    engine = facts.state
    return NodeRecord(
        name=identity.name,
        node_id=identity.node_id,
        instance=identity.instance,
        state=state,
        started=identity.started,
        hostname=identity.hostname,
        pid=identity.pid,
        slots=slots,
        pool=config.node.pool,
        labels=config.node.labels,
        mode=config.execution.mode,
        sandbox_level=engine.level if engine.usable else 0,
        docker_available=engine.usable and engine.name == "docker",
        podman_available=engine.usable and engine.name == "podman",
        container_images=facts.images,
        offer=offer,
        gpus=devices.entries(),
        no_gpus=devices.snapshot.reason,
    )
