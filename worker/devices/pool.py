"""All devices of a node and who holds them, shared by its processes through lease files.

A slot has a lease of its own, by which it runs one attempt at a time; a slot with GPUs has one of
each of its devices beside it. A grant is all of them, held by open files: see `leases` and
`ledger`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from tasks.errors import RuntimeUnavailable
from worker.devices import leases
from worker.devices.allocation import Held, Request, Rules, free_mb
from worker.devices.claims import Claims, Owners
from worker.devices.health import HealthBook
from worker.devices.inventory import Device, Inventory, Snapshot, StaticInventory
from worker.devices.leases import LeaseFile
from worker.devices.ledger import FileLedger, Ledger, Totals
from worker.devices.owners import processes_of
from worker.devices.visibility import environment
from worker.keeper import lock
from worker.keeper.settle import Settled, Settlement, settle
from worker.plan import Grant

_LOOK_FOR = 0.2
_AGAIN = 0.002


class _Closes(Protocol):
    def close(self) -> None: ...


class HeldGrant:
    """A grant with this process's copies of its leases.

    Releasing it lets go of the copies only: where a keeper was started with the grant, the keeper
    holds it until the attempt is removed.
    """

    def __init__(self, grant: Grant, held: Sequence[_Closes]) -> None:
        self.grant = grant
        self._held = tuple(held)

    def release(self) -> None:
        """Safe to call twice."""
        for lease in self._held:
            lease.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceState:
    """One device as people and monitors are shown it."""

    device: Device
    held: tuple[Held, ...] = ()
    drained: str = ""
    free_mb: int = 0
    totals: Totals = Totals()  # noqa: RUF009 - frozen


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolState:
    """The whole pool."""

    snapshot: Snapshot
    devices: tuple[DeviceState, ...]


def why_unfit(state: DeviceState) -> str:
    """Why a device is given to nobody; '' if it is well."""
    held_up = next((one.quarantined for one in state.held if one.quarantined), "")
    quarantined = f"quarantined: {held_up}" if held_up else ""
    drained = f"drained: {state.drained}" if state.drained else ""
    return drained or state.device.fault or quarantined


class DevicePool:
    """Grants devices; what a dead keeper left on them is settled first."""

    def __init__(
        self,
        *,
        leases: Path,
        attempts: Path,
        inventory: Inventory | None = None,
        rules: Rules = Rules(),  # noqa: B008 - frozen
        ledger: Ledger | None = None,
        owners: Owners = processes_of,
        patience: float = 0.5,
    ) -> None:
        """
        ``leases``: the directory of lease files. ``attempts``: that of attempts' state.
        ``inventory``: what devices there are (default: none). ``ledger``, ``owners``: the pool's
        ground, which tests undermine. ``patience``: see `Claims`.
        """
        self._leases = leases
        self._attempts = attempts
        directory = devices_directory(leases)
        self.health = HealthBook(directory / "health.json")
        self._ledger = ledger or FileLedger(directory)
        self._inventory = inventory or StaticInventory(reason="this node has no GPUs")
        self._claims = Claims(
            self._ledger,
            self._inventory,
            attempts=attempts,
            rules=rules,
            drained=self.health.drained,
            owners=owners,
            patience=patience,
        )

    def grant_cpu(self, slot: str) -> HeldGrant:
        """The whole CPU slot ``slot``.

        Raises:
            RuntimeUnavailable: somebody holds it; the message says who.
        """
        lease = self._slot(slot)
        grant = Grant(slot=slot, env=environment(()), fds=(lease.fd,))
        return HeldGrant(grant, (lease,))

    def grant(
        self, slot: str, request: Request, *, attempt: str = "", timeout: float = 0.0
    ) -> HeldGrant:
        """The slot ``slot`` with devices. ``attempt``, ``timeout``: see `Claims.acquire`.

        Raises:
            DeviceBusy: they are not to be had within that time.
            NoSuchDevices: they are not to be had here at all.
            RuntimeUnavailable: somebody holds the slot.
        """
        lease = self._slot(slot)
        try:
            held = self._claims.acquire(request, slot=slot, attempt=attempt, timeout=timeout)
        except BaseException:
            lease.close()
            raise
        known = self._inventory.snapshot().by_uuid()
        uuids = tuple(one.held.device for one in held)
        nodes = {node for uuid in uuids if uuid in known for node in known[uuid].nodes}
        grant = Grant(
            slot=slot,
            devices=uuids,
            env=environment(
                [known.get(uuid, Device(uuid=uuid)) for uuid in uuids], request.memory_mb
            ),
            nodes=tuple(sorted(nodes)),
            fds=(lease.fd, *(one.fd for one in held)),
        )
        return HeldGrant(grant, (lease, *held))

    def reap(self) -> None:
        """Clear up after dead holders of devices, and count what they used."""
        self._claims.reap()

    def state(self) -> PoolState:
        """How it stands. Changes nothing."""
        situation = self._claims.situation()
        totals = self._ledger.book().totals
        return PoolState(
            snapshot=situation.snapshot,
            devices=tuple(
                DeviceState(
                    device=device,
                    held=tuple(situation.on(device.uuid)),
                    drained=situation.drained.get(device.uuid, ""),
                    free_mb=free_mb(device, situation),
                    totals=totals.get(device.uuid, Totals()),
                )
                for device in situation.snapshot.devices
            ),
        )

    def settle(self, slot: str) -> list[Settled]:
        """Settle every attempt of ``slot`` whose keeper is dead."""
        if not self._attempts.is_dir():
            return []
        path = self._leases / (slot + leases.SUFFIX)
        found = []
        for directory in sorted(self._attempts.iterdir()):
            if lock.alive(directory):
                continue
            record = lock.read(directory)
            if record is not None and record.slot == slot:
                found.append(settle(directory, (path,)))
        return found

    def _slot(self, slot: str) -> LeaseFile:
        """The slot's own lease.

        Settled before the lease is taken, never after: whoever settles kills the holders of the
        lease, and must not find a new one among them.
        """
        for settled in self.settle(slot):
            if settled.outcome is Settlement.BLOCKED:
                raise RuntimeUnavailable(
                    f"slot {slot}: what attempt {settled.directory.name} left behind still holds "
                    f"{', '.join(map(str, settled.held)) or 'its processes'}"
                )
        return self._take(slot)

    def _take(self, slot: str) -> LeaseFile:
        until = time.monotonic() + _LOOK_FOR
        while True:
            record: dict[str, str | int] = {
                "slot": slot,
                "pid": os.getpid(),
                "since": int(time.time()),
            }
            lease = LeaseFile.acquire(self._leases, slot, record)
            if lease is not None:
                return lease
            if time.monotonic() >= until:  # longer than anybody looks: it is held
                path = self._leases / (slot + leases.SUFFIX)
                holder = leases.read(path).get("pid", "unknown")
                raise RuntimeUnavailable(f"slot {slot} is held (granted by process {holder})")
            time.sleep(_AGAIN)


def devices_directory(leases: Path) -> Path:
    """Where the pool keeps its files, by the directory of lease files."""
    return leases / "devices"
