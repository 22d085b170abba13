"""Which slots a node's GPUs make."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.choices import Device as Kind
from tasks.errors import ConfigError
from worker.config import NodeConfig
from worker.devices.inventory import Device, Snapshot
from worker.node.gpu_slots import gpu_slots
from worker.node.slots import Launch, SlotKind

pytestmark = pytest.mark.unit

GPUS = Snapshot(
    devices=tuple(Device(uuid=f"GPU-{n}", index=n, memory_mb=80_000 + n) for n in range(4))
)
SPLIT = Snapshot(
    devices=(
        Device(uuid="GPU-0", index=0, memory_mb=80_000, partitioned=True),
        Device(uuid="MIG-a", index=0, memory_mb=40_000, parent="GPU-0"),
        Device(uuid="MIG-b", index=1, memory_mb=10_000, parent="GPU-0"),
    )
)


def config(**sections: Any) -> NodeConfig:
    return NodeConfig.model_validate(sections)


def test_by_itself_each_device_is_a_slot() -> None:
    slots = gpu_slots(config(), GPUS)
    assert [slot.name for slot in slots] == ["gpu0", "gpu1", "gpu2", "gpu3"]
    assert [slot.devices for slot in slots[:2]] == [("GPU-0",), ("GPU-1",)]
    assert slots[1].gpu_memory_mb == 80_001
    assert {slot.kind for slot in slots} == {SlotKind.CUDA}
    assert gpu_slots(config(), Snapshot(reason="no driver")) == ()


def test_instances_are_slots_and_their_gpu_is_none() -> None:
    slots = gpu_slots(config(), SPLIT)
    assert [(slot.name, slot.devices) for slot in slots] == [
        ("gpu0-mig0", ("MIG-a",)),
        ("gpu0-mig1", ("MIG-b",)),
    ]


def test_sets_are_named_by_index_or_uuid() -> None:
    slots = gpu_slots(config(slots={"gpu": [[0], ["GPU-1"], [2, 3]]}), GPUS)
    assert [slot.name for slot in slots] == ["gpu0", "gpu1", "gpu2-3"]
    assert slots[2].devices == ("GPU-2", "GPU-3")
    assert slots[2].gpu_memory_mb == 80_002, "the smallest of its devices"


def test_shared_devices_make_a_slot_for_each_job() -> None:
    shared = config(gpu={"allocation": "shared", "max_jobs_per_device": 3})
    slots = gpu_slots(shared, Snapshot(devices=GPUS.devices[:1]))
    assert [slot.name for slot in slots] == ["gpu0-a", "gpu0-b", "gpu0-c"]
    assert {slot.gpu_memory_mb for slot in slots} == {(80_000 - 1024) // 3}


def test_a_limit_is_what_a_job_can_have() -> None:
    assert gpu_slots(config(gpu={"memory_limit_mb": 9_000}), GPUS)[0].gpu_memory_mb == 9_000


def test_devices_of_another_vendor_are_slots_of_their_kind() -> None:
    card = Device(uuid="card", kind=Kind.ROCM, index=0, memory_mb=65_536)
    (slot,) = gpu_slots(config(), Snapshot(devices=(card,)))
    assert (slot.name, slot.kind) == ("rocm0", SlotKind.ROCM)


@pytest.mark.parametrize(
    ("sets", "snapshot", "why"),
    [
        ([[7]], GPUS, "no device 7; there are: GPU-0 .index 0."),
        ([["GPU-x"]], Snapshot(reason="no driver"), "no device 'GPU-x'; .*no driver"),
        ([[0]], SPLIT, "GPU-0 is split into MIG instances"),
        ([["MIG-a", "MIG-b"]], SPLIT, "one MIG instance at most"),
        ([[0, "GPU-0"]], GPUS, "stands in a set twice"),
        (
            [["GPU-0", "card"]],
            Snapshot(devices=(*GPUS.devices, Device(uuid="card", kind=Kind.ROCM, index=9))),
            "of one kind",
        ),
    ],
)
def test_a_set_that_cannot_be_is_refused(sets: Any, snapshot: Snapshot, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        gpu_slots(config(slots={"gpu": sets}), snapshot)


def test_a_worker_with_other_devices_is_another_one() -> None:
    launch = Launch(command=lambda slot: [], env={}, digest="d")
    one, other = gpu_slots(config(), GPUS)[:2]
    assert launch.digest_for(one) == launch.digest_for(one)
    assert launch.digest_for(one) != launch.digest_for(other)
