"""No job lands in a queue that an unfit slot reads; every job is read by a slot that is fit."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.choices import Device, Priority, Sandbox
from tasks.job import JobConfig
from tasks.keys import PRIORITY_STEPS
from tasks.ladders import MOST_CLASSES, SandboxClass, rungs
from tasks.routing import (
    QueueClass,
    SlotOffer,
    classes_for,
    direct_queue,
    queue_class,
    route,
    satisfies,
    slot_queue,
)

pytestmark = pytest.mark.unit

EVERY_SANDBOX = frozenset(SandboxClass)
_pools = st.sampled_from(["", "a", "lab-a", "default"])


def job(**fields: Any) -> JobConfig:
    return JobConfig.parse({"command": ["true"], **fields})


def queues(offer: SlotOffer) -> list[str]:
    return [wanted.name for wanted in classes_for(offer)]


@st.composite
def jobs(draw: st.DrawFn) -> JobConfig:
    device = draw(st.sampled_from(Device))
    sandbox = draw(st.sampled_from(Sandbox))
    signed = draw(st.booleans())
    fields: dict[str, Any] = {"required_device": device, "sandbox": sandbox, "pool": draw(_pools)}
    fields["priority"] = draw(st.sampled_from(Priority))
    if signed:
        fields["signature"] = "s"
    name = "gpu_memory_mb" if device.is_gpu else "memory_mb"
    most = min(rungs(device, each)[-1] for each in SandboxClass)
    if draw(st.booleans()):
        fields[name] = draw(st.integers(1 if device.is_gpu else 16, most))
    if device.is_gpu:
        if draw(st.booleans()):
            fields["gpus"] = draw(st.integers(1, 8))
        if draw(st.booleans()):
            fields["memory_mb"] = draw(st.integers(16, 2**20))
    return job(**fields)


@st.composite
def offers(draw: st.DrawFn) -> SlotOffer:
    device = draw(st.sampled_from([Device.CPU, Device.CUDA, Device.ROCM]))
    gpu = device.is_gpu
    return SlotOffer(
        device=device,
        memory_mb=draw(st.integers(0, 2**21)),
        gpu_memory_mb=draw(st.integers(0, 400_000)) if gpu else 0,
        width=draw(st.integers(1, 8)) if gpu else 0,
        sandboxes=draw(st.frozensets(st.sampled_from(SandboxClass))),
        pool=draw(_pools),
    )


def needed(config: JobConfig) -> SandboxClass:
    """What the job needs of a node's confinement, said again in other words."""
    if config.sandbox is Sandbox.GVISOR:
        return SandboxClass.GVISOR
    wants_less = config.sandbox in {Sandbox.PREFERRED, Sandbox.NONE}
    unsigned = config.signature is None
    return SandboxClass.REQUIRED if unsigned or not wants_less else SandboxClass.OPTIONAL


@settings(max_examples=400)
@given(jobs(), offers())
def test_no_slot_reads_the_queue_of_a_job_that_it_cannot_run(
    config: JobConfig, offer: SlotOffer
) -> None:
    if route(config).queue not in queues(offer):
        return
    assert config.pool == offer.pool
    assert needed(config) in offer.sandboxes
    if config.required_device is not Device.ANY:
        assert config.required_device is offer.device
    if config.required_device.is_gpu:
        assert offer.width == (config.gpus or 1)
        assert offer.gpu_memory_mb >= (config.gpu_memory_mb or 0)
    else:
        assert offer.memory_mb >= (config.memory_mb or 0)


@settings(max_examples=400)
@given(jobs(), offers())
def test_a_slot_reads_a_queue_exactly_if_it_satisfies_the_class(
    config: JobConfig, offer: SlotOffer
) -> None:
    wanted = queue_class(config)
    size = offer.gpu_memory_mb if config.required_device.is_gpu else offer.memory_mb
    fits = (
        wanted.pool == offer.pool
        and wanted.sandbox in offer.sandboxes
        and wanted.device in {offer.device, Device.ANY}
        and wanted.memory_mb <= size
        and wanted.width in ({0} if wanted.device is Device.ANY else {offer.width})
    )
    assert (wanted.name in queues(offer)) == fits == satisfies(offer, wanted)


@given(jobs())
def test_every_job_is_read_by_a_slot_that_is_big_enough(config: JobConfig) -> None:
    device = config.required_device
    for kind in [Device.CPU, Device.CUDA, Device.ROCM] if device is Device.ANY else [device]:
        width = config.width if device.is_gpu else (2 if kind.is_gpu else 0)
        offer = SlotOffer(
            device=kind,
            memory_mb=2**21,
            gpu_memory_mb=300_000 if kind.is_gpu else 0,
            width=width,
            sandboxes=frozenset({needed(config)}),
            pool=config.pool,
        )
        assert route(config).queue in queues(offer)


@given(offers())
def test_a_slot_reads_at_most_25_queues_most_demanding_first(offer: SlotOffer) -> None:
    classes = classes_for(offer)
    assert len(classes) <= MOST_CLASSES == 25
    names = [wanted.name for wanted in classes]
    assert names == sorted(set(names))
    order = {SandboxClass.GVISOR: 2, SandboxClass.REQUIRED: 1, SandboxClass.OPTIONAL: 0}
    demand = [
        (wanted.device is not Device.ANY, wanted.width, wanted.memory_mb, order[wanted.sandbox])
        for wanted in classes
    ]
    assert demand == sorted(demand, reverse=True)


@pytest.mark.parametrize("device", [Device.CPU, Device.CUDA, Device.ROCM])
def test_the_largest_slot_of_each_kind_stays_within_the_cap(device: Device) -> None:
    gpu = device.is_gpu
    offer = SlotOffer(
        device=device,
        memory_mb=2**30,
        gpu_memory_mb=2**30 if gpu else 0,
        width=int(gpu),
        sandboxes=EVERY_SANDBOX,
    )
    every_rung = sum(len(rungs(kind, box)) for kind in (device, Device.ANY) for box in SandboxClass)
    assert len(classes_for(offer)) == every_rung == MOST_CLASSES


@pytest.mark.parametrize("device", list(Device))
@pytest.mark.parametrize("sandbox", list(SandboxClass))
def test_ladders_rise_from_a_rung_that_asks_for_little(
    device: Device, sandbox: SandboxClass
) -> None:
    ladder = rungs(device, sandbox)
    assert list(ladder) == sorted(set(ladder))
    assert ladder[0] == (4_000 if device.is_gpu else 0)


@given(jobs())
def test_names_are_plain_and_come_back_as_the_class(config: JobConfig) -> None:
    wanted = queue_class(config)
    assert re.fullmatch(r"[a-z0-9.-]+", wanted.name)
    assert QueueClass.from_name(wanted.name) == wanted


@given(jobs(), jobs())
def test_different_classes_have_different_names(one: JobConfig, two: JobConfig) -> None:
    same = queue_class(one) == queue_class(two)
    assert (route(one).queue == route(two).queue) == same


@pytest.mark.parametrize(
    "name",
    [
        "",
        "celery",
        "to.node-a",
        "slot.node-a.cpu0",
        "work.2-99-9999999-1.any-x0-0mb-none",
        "work.1-99-9999999-1.any-x0-0mb-required",
        "work.2-99-9999999-1.any-x0-00mb-required",
        "work.2-99-9999999-1.any-x0-0mb-required\n",
    ],
)
def test_other_names_are_no_class(name: str) -> None:
    with pytest.raises(ValueError, match="not the name of a queue"):
        QueueClass.from_name(name)


@given(jobs())
def test_direct_queues_are_served_before_every_class(config: JobConfig) -> None:
    own = [slot_queue("node-a", "cpu0"), direct_queue("node-a"), route(config).queue]
    assert own == sorted(own)


@pytest.mark.parametrize("name", ["", "A", "a.b", "a_b", "-a", "a-", "a" * 64, "a\n"])
def test_a_direct_queue_needs_a_plain_name(name: str) -> None:
    with pytest.raises(ValueError, match="a-z, 0-9 and -"):
        direct_queue(name)
    with pytest.raises(ValueError, match="a-z, 0-9 and -"):
        slot_queue("node-a", name)


def test_priorities_are_the_steps_of_the_transport() -> None:
    steps = {str(each): route(job(priority=each)).priority_step for each in Priority}
    assert steps == {"critical": 0, "high": 3, "normal": 6, "low": 9}
    assert set(steps.values()) == set(PRIORITY_STEPS)


def test_a_card_takes_the_jobs_of_its_size_and_below() -> None:
    offer = SlotOffer(
        device=Device.CUDA,
        memory_mb=64_000,
        gpu_memory_mb=24_564,
        width=1,
        sandboxes=frozenset({SandboxClass.REQUIRED}),
    )
    read = queues(offer)
    for ask in (None, 1, 8_000, 16_384, 24_000):
        assert route(job(required_device="cuda", gpu_memory_mb=ask)).queue in read
    for ask in (24_576, 40_000):
        assert route(job(required_device="cuda", gpu_memory_mb=ask)).queue not in read
    assert route(job(required_device="rocm")).queue not in read
    assert route(job(required_device="cuda", gpus=2)).queue not in read
    assert route(job(required_device="cpu")).queue not in read
    assert route(job(required_device="any")).queue in read
    assert route(job(required_device="any", sandbox="gvisor")).queue not in read
    assert route(job(required_device="cuda", sandbox="none", signature="s")).queue not in read
    assert route(job(required_device="cuda", sandbox="none")).queue in read


@pytest.mark.parametrize(
    "fields",
    [
        {"device": Device.ANY},
        {"device": Device.CPU, "width": 1},
        {"device": Device.CPU, "gpu_memory_mb": 1},
        {"device": Device.CUDA},
        {"device": Device.CUDA, "width": 100},
        {"device": Device.CPU, "memory_mb": -1},
        {"device": Device.CPU, "pool": "A"},
    ],
)
def test_an_offer_that_cannot_be(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        SlotOffer(**{"memory_mb": 1, "sandboxes": EVERY_SANDBOX, **fields})
