"""Devices that are not well: drained one by one, and taken back after a row of clean looks.

The verdicts are pure. One process of a node, its agent, looks and writes them down; all others
read them.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from worker.devices.inventory import Device, GpuEvent, Inventory

log = logging.getLogger(__name__)

CLEAN_LOOKS: Final = 3
HARMLESS_XIDS: Final = frozenset({13, 31, 43, 45, 68, 109})
"""Faults of a program, not of the device; see NVIDIA's list of Xid errors."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """What is known of one device."""

    drained: str = ""
    """Why it is given to nobody; '' if it is well."""
    clean: int = 0
    """Looks in a row at which nothing was wrong, while it is drained."""
    double_bit_errors: int | None = None
    """The driver's count at the last look."""


def judge(
    before: Health,
    device: Device,
    events: Iterable[GpuEvent] = (),
    *,
    clean_looks: int = CLEAN_LOOKS,
) -> Health:
    """The verdict of one look at a device."""
    now = replace(before, double_bit_errors=device.double_bit_errors)
    wrong = _wrong(before, device, events)
    if wrong:
        return replace(now, drained=wrong, clean=0)
    if not before.drained:
        return now
    if before.clean + 1 >= clean_looks:
        return replace(now, drained="", clean=0)
    return replace(now, clean=before.clean + 1)


def _wrong(before: Health, device: Device, events: Iterable[GpuEvent]) -> str:
    if device.fault:
        return f"lost: {device.fault}"
    for event in events:
        if event.xid is None:
            return "double-bit ECC error"
        if event.xid not in HARMLESS_XIDS:
            return f"Xid {event.xid}"
    counted, at_first = device.double_bit_errors, before.double_bit_errors
    if counted is not None and at_first is not None and counted > at_first:
        return f"double-bit ECC error ({counted} since the driver was loaded)"
    return ""


class HealthBook:
    """What was found, in a file that all processes of the node read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, Health]:
        try:
            content = json.loads(self._path.read_bytes())
            return {uuid: Health(**one) for uuid, one in content.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def write(self, health: Mapping[str, Health]) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps({uuid: asdict(one) for uuid, one in health.items()}))
        partial.replace(self._path)

    def drained(self) -> dict[str, str]:
        """UUID to why."""
        return {uuid: one.drained for uuid, one in self.read().items() if one.drained}


class Events(Protocol):
    """Where a driver's events are heard."""

    def watch(self) -> None: ...

    def hear(self) -> list[GpuEvent]: ...


class NoEvents:
    """No driver that would say anything."""

    def watch(self) -> None:
        pass

    def hear(self) -> list[GpuEvent]:
        return []


class HealthWatch:
    """Looks at all devices of the node. One thread of one process."""

    def __init__(
        self,
        inventory: Inventory,
        events: Events,
        book: HealthBook,
        *,
        clean_looks: int = CLEAN_LOOKS,
    ) -> None:
        self._inventory = inventory
        self._events = events
        self._book = book
        self._clean_looks = clean_looks

    def look(self) -> dict[str, str]:
        """Look once, and write down what is wrong: UUID to why."""
        self._events.watch()
        devices = self._inventory.snapshot().devices
        heard = self._events.hear()
        before = self._book.read()
        after = dict(before)
        for device in devices:
            # an event of a GPU is one of every instance of it
            own = [one for one in heard if one.uuid in (device.uuid, device.parent)]
            after[device.uuid] = judge(
                before.get(device.uuid, Health()), device, own, clean_looks=self._clean_looks
            )
        present = {device.uuid for device in devices}
        for uuid in before.keys() - present:
            after[uuid] = replace(before[uuid], drained="lost: it is not there", clean=0)
        self._tell(before, after)
        if after != before:
            with contextlib.suppress(OSError):  # the next look tries again
                self._book.write(after)
        return {uuid: one.drained for uuid, one in after.items() if one.drained}

    @staticmethod
    def _tell(before: Mapping[str, Health], after: Mapping[str, Health]) -> None:
        for uuid, one in after.items():
            was = before.get(uuid, Health()).drained
            if one.drained and one.drained != was:
                log.warning("device.drained device=%s why=%s", uuid, one.drained)
            elif was and not one.drained:
                log.info("device.recovered device=%s was=%s", uuid, was)
