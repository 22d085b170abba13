"""The verdicts on a device."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.devices.health import HARMLESS_XIDS, Health, HealthBook, judge
from worker.devices.inventory import Device, GpuEvent

pytestmark = pytest.mark.unit
WELL = Device(uuid="g0", double_bit_errors=1)


def event(xid: int | None) -> GpuEvent:
    return GpuEvent(uuid="g0", xid=xid)


@pytest.mark.parametrize("xid", sorted(HARMLESS_XIDS))
def test_a_programs_fault_is_not_the_devices(xid: int) -> None:
    assert judge(Health(), WELL, [event(xid)]).drained == ""


@pytest.mark.parametrize(
    ("device", "events", "why"),
    [
        (WELL, [event(79)], "Xid 79"),
        (WELL, [event(31), event(48)], "Xid 48"),
        (WELL, [event(None)], "double-bit"),
        (Device(uuid="g0", fault="gone"), [], "lost: gone"),
        (Device(uuid="g0", double_bit_errors=2), [], "double-bit"),
    ],
)
def test_a_devices_fault_drains_it(device: Device, events: list[GpuEvent], why: str) -> None:
    before = Health(double_bit_errors=1)
    assert judge(before, device, events).drained.startswith(why)


def test_errors_of_before_the_node_started_drain_nothing() -> None:
    assert judge(Health(), Device(uuid="g0", double_bit_errors=7)).drained == ""


def test_it_recovers_after_a_row_of_clean_looks_and_a_new_fault_begins_anew() -> None:
    seen = judge(Health(), WELL, [event(79)])
    seen = judge(seen, WELL)
    seen = judge(seen, WELL)
    assert (seen.drained, seen.clean) == ("Xid 79", 2)
    seen = judge(seen, WELL, [event(79)])
    assert seen.clean == 0
    for _ in range(3):
        seen = judge(seen, WELL)
    assert seen == Health(double_bit_errors=1)


def test_the_book_comes_back_and_a_broken_one_is_empty(tmp_path: Path) -> None:
    book = HealthBook(tmp_path / "devices" / "health.json")
    assert book.read() == {}
    book.write({"g0": Health(drained="Xid 79"), "g1": Health()})
    assert book.drained() == {"g0": "Xid 79"}
    (tmp_path / "devices" / "health.json").write_text("{")
    assert book.drained() == {}
