"""Whether a request can be met: the rules one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.config import NodeConfig
from worker.devices.allocation import (
    Held,
    Request,
    Rules,
    Situation,
    choose,
    foreign_mb,
    free_mb,
)
from worker.devices.configured import memory_for_a_job, rules
from worker.devices.inventory import Device, GpuProcess, Snapshot

pytestmark = pytest.mark.unit


def situation(*devices: Device, held: tuple[Held, ...] = (), **more: object) -> Situation:
    return Situation(snapshot=Snapshot(devices=devices), held=held, **more)  # type: ignore[arg-type]  # a test's own keywords


def gpu(number: int, **more: object) -> Device:
    return Device(uuid=f"g{number}", index=number, memory_mb=80_000, **more)  # type: ignore[arg-type]


def why(request: Request, seen: Situation, rules: Rules = Rules()) -> str:  # noqa: B008
    found = choose(request, seen, rules)
    assert not found.devices
    return found.why


def test_what_is_held_is_held() -> None:
    seen = situation(gpu(0), held=(Held(device="g0", lease="a", attempt="job~1"),))
    assert "held by job~1" in why(Request(), seen)
    assert choose(Request(), replace(seen, held=()), Rules()).devices == ("g0",)


def test_an_exclusive_request_shares_with_nobody() -> None:
    shared = Held(device="g0", lease="a", share=0.25, memory_mb=1000)
    seen = situation(gpu(0), held=(shared,))
    rules = Rules(max_jobs=4)
    assert choose(Request(share=0.25), seen, rules).devices == ("g0",)
    assert "held" in why(Request(), seen, rules)
    whole = situation(gpu(0), held=(replace(shared, share=1.0),))
    assert "held" in why(Request(share=0.25), whole, rules)


def test_jobs_of_a_device_are_bounded() -> None:
    held = tuple(Held(device="g0", lease=str(n), share=0.1) for n in range(2))
    assert "has 2 jobs" in why(Request(share=0.1), situation(gpu(0), held=held), Rules(max_jobs=2))
    taken = situation(gpu(0), held=(Held(device="g0", lease="a", share=0.7),))
    assert "0.7 of it" in why(Request(share=0.5), taken, Rules(max_jobs=9))


def test_a_device_that_is_nearly_full_is_given_to_nobody() -> None:
    full = gpu(0, used_mb=76_000, processes=(GpuProcess(pid=7, memory_mb=76_000, graphics=True),))
    assert choose(Request(), situation(full), Rules()).devices == ("g0",)
    assert "4000 MiB are free" in why(Request(), situation(full), Rules(min_available_mb=8_000))


def test_leftovers_keep_a_device_from_its_next_job() -> None:
    process = gpu(0, used_mb=500, processes=(GpuProcess(pid=9, memory_mb=500),))
    assert "no job's: 9" in why(Request(), situation(process))
    memory = gpu(0, used_mb=5_000)
    assert "held by nobody" in why(Request(), situation(memory))


def test_memory_that_is_not_told_counts_as_foreign() -> None:
    other = gpu(0, used_mb=9_000, processes=(GpuProcess(pid=9, memory_mb=None),))
    assert foreign_mb(other, situation(other)) == 9_000
    ours = replace(other, processes=(GpuProcess(pid=9, memory_mb=8_000),))
    held = (Held(device="g0", lease="a", share=0.5, memory_mb=10_000, attempt="job~1"),)
    seen = situation(ours, held=held, ours={"job~1": frozenset({9})})
    assert foreign_mb(ours, seen) == 1_000
    assert free_mb(ours, seen) == 80_000 - 1_000 - 10_000


def test_what_is_drained_faulty_or_quarantined_is_said_so() -> None:
    assert "drained: Xid 79" in why(Request(), situation(gpu(0), drained={"g0": "Xid 79"}))
    assert "lost" in why(Request(), situation(gpu(0, fault="lost")))
    held = (Held(device="g0", lease="a", quarantined="its engine is silent"),)
    assert "quarantined: its engine is silent" in why(Request(), situation(gpu(0), held=held))


def test_a_request_that_can_never_be_met_is_told_so() -> None:
    assert choose(Request(count=2), situation(gpu(0)), Rules()).never
    assert not choose(Request(only=frozenset({"g9"})), situation(gpu(0)), Rules()).never


held_somehow = st.lists(
    st.builds(
        Held,
        device=st.sampled_from([f"g{n}" for n in range(4)]),
        lease=st.uuids().map(str),
        share=st.sampled_from([0.25, 0.5, 1.0]),
        memory_mb=st.sampled_from([0, 10_000, 40_000]),
    ),
    max_size=6,
)


@given(
    held_somehow,
    st.integers(1, 4),
    st.sampled_from([0.25, 0.5, 1.0]),
    st.sampled_from([0, 20_000]),
    st.sets(st.sampled_from(["g0", "g1", "g2", "g3"])),
)
def test_nothing_is_ever_promised_twice(
    held: list[Held], count: int, share: float, memory: int, withheld: set[str]
) -> None:
    seen = situation(*(gpu(n) for n in range(4)), held=tuple(held))
    request = Request(count=count, share=share, memory_mb=memory)
    found = choose(request, seen, Rules(max_jobs=4), withheld).devices
    assert len(found) in {0, count}
    assert withheld.isdisjoint(found)
    for uuid in found:
        others = seen.on(uuid)
        assert sum(one.share for one in others) + share <= 1.0
        assert sum(one.memory_mb for one in others) + memory <= 80_000
        assert not (others and (share == 1.0 or any(one.share == 1.0 for one in others)))


@pytest.mark.parametrize("jobs", [2, 3, 7])
@pytest.mark.parametrize("memory", [8_192, 81_559])
def test_the_equal_parts_of_a_device_can_all_be_had(jobs: int, memory: int) -> None:
    """Though its driver reserves some of it, and uses some more that no process is seen to hold."""
    shared = NodeConfig.model_validate(
        {"gpu": {"allocation": "shared", "max_jobs_per_device": jobs}}
    )
    device = Device(uuid="g0", memory_mb=memory, reserved_mb=450, used_mb=300)
    part = memory_for_a_job(shared, device)
    request = Request(share=1 / jobs, memory_mb=part)
    held: list[Held] = []
    for number in range(jobs):
        seen = situation(device, held=tuple(held))
        assert choose(request, seen, rules(shared)).devices == ("g0",)
        held.append(Held(device="g0", lease=str(number), share=1 / jobs, memory_mb=part))
    assert part * jobs > 0.85 * memory
