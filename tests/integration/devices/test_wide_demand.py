"""What waits for several devices."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.choices import Device
from tasks.ladders import SandboxClass
from tasks.routing import QueueClass, direct_queue
from worker.config import NodeConfig
from worker.devices.planner import Demand
from worker.node import slot_records
from worker.node.device_care import DeviceCare
from worker.node.gpu_slots import gpu_slots
from worker.node.paths import NodePaths
from worker.node.shaping import Shaping
from worker.node.wide_demand import WideDemand, wide_classes

NARROW = QueueClass(
    device=Device.CUDA, sandbox=SandboxClass.REQUIRED, memory_mb=24_000, width=1, pool="lab"
)


@pytest.mark.unit
def test_the_classes_are_those_of_the_narrow_slots_but_wider() -> None:
    queues = [NARROW.name, direct_queue("node-a"), "work.2-99-9999999-1.any-x0-0mb-required"]
    found = wide_classes(queues, (2, 3))
    assert sorted(found.values()) == [2, 3]
    for name, width in found.items():
        one = QueueClass.from_name(name)
        assert (one.width, one.memory_mb, one.pool) == (width, 24_000, "lab")


@pytest.mark.integration
def test_it_counts_what_waits_and_for_how_long(hub) -> None:  # type: ignore[no-untyped-def]
    demand = WideDemand(hub.settings, lambda: [NARROW.name], most=4)
    assert demand.look(hub.client) == ()
    two = QueueClass.from_name(
        next(name for name, width in wide_classes([NARROW.name], [2]).items())
    )
    now = time.time()
    hub.client.zadd(hub.keys.waiting(two.name), {"a": (now - 60) * 1000, "b": now * 1000})
    (found,) = demand.look(hub.client)
    assert (found.width, found.jobs) == (2, 2)
    assert 59 < found.age < 90
    assert demand.found == (Demand(width=2, jobs=2, age=found.age),)


@pytest.mark.integration
def test_what_waits_is_asked_for_when_every_slot_is_part_of_a_wide_one(
    hub,  # type: ignore[no-untyped-def]
    tmp_path: Path,
) -> None:
    """Then no narrow slot reads anything, and forgets what it read."""
    cards = [{"uuid": f"card-{n}", "kind": "rocm", "memory_mb": 65_536} for n in range(2)]
    config = NodeConfig.model_validate(
        {
            "node": {"state_dir": tmp_path},
            "gpu": {"devices": [{**one, "nodes": []} for one in cards]},
        }
    )
    paths = NodePaths(state_dir=tmp_path)
    paths.create()
    devices = DeviceCare(config, paths)
    shaping = Shaping(
        config,
        hub.settings,
        paths=paths,
        slots=gpu_slots(config, devices.snapshot),
        devices=devices,
        make=lambda slot: pytest.fail(f"{slot} is not asked for"),
        busy=lambda slot: False,
    )
    one = replace(NARROW, device=Device.ROCM)
    two = replace(one, width=2)
    hub.client.zadd(hub.keys.waiting(two.name), {"a": time.time() * 1000})
    slot_records.write_queues(paths, "rocm0", [one.name])
    for _ in range(2):
        (found,) = shaping.demand.look(hub.client)
        assert (found.kind, found.width, found.jobs) == (Device.ROCM, 2, 1)
        slot_records.forget(paths, "rocm0")
