"""How devices are got: looked at outside the mutex, decided on and taken within it, all or none.

Who cannot have them takes a ticket. What an older ticket could take now, and after some patience
whatever idle device it could use, is held back for it: a stream of small requests starves nobody
who wants many.

Before a device is given again, what a dead holder left is ended (`worker.keeper.settle`). Where
that cannot be done, since the container engine does not answer or a process resists, the device is
quarantined: nobody gets it until it can.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from tasks.errors import PlatformError, RuntimeUnavailable
from worker.devices.allocation import Choice, Held, Request, Rules, Situation, choose
from worker.devices.inventory import Inventory, Snapshot
from worker.devices.ledger import DeviceLease, Found, Ledger, LedgerBusy, Queueing
from worker.devices.owners import processes_of
from worker.keeper import lock, procfs
from worker.keeper.settle import Settlement, settle

log = logging.getLogger(__name__)

_AGAIN_S: Final = 0.01
_FRESH_S: Final = 0.05
"""How old what the driver said may be when a device is given."""
_SETTLE_WITHIN_S: Final = 2.0
_SETTLE_AGAIN_S: Final = 1.0
_CLEARING: Final = "what its holder left is being cleared away"


class DeviceBusy(RuntimeUnavailable):
    """The devices are not to be had now; the message says for each why."""


class NoSuchDevices(RuntimeUnavailable):
    """They are not to be had here at all."""


Owners = Callable[[Path, Iterable[int]], Mapping[str, frozenset[int]]]


class Claims:
    """Gets devices for this process, against all others of the node. One thread at a time."""

    def __init__(
        self,
        ledger: Ledger,
        inventory: Inventory,
        *,
        attempts: Path,
        rules: Rules,
        drained: Callable[[], Mapping[str, str]],
        owners: Owners = processes_of,
        patience: float = 0.5,
    ) -> None:
        """
        ``attempts``: the directory of attempts' state. ``drained``: devices that are not well, and
        why. ``patience``: seconds after which idle devices are held back for who waits.
        """
        self._ledger = ledger
        self._inventory = inventory
        self._attempts = attempts
        self._rules = rules
        self._drained = drained
        self._owners = owners
        self._patience = patience
        self._blocked: dict[str, tuple[str, float]] = {}
        """By lease: why what its dead holder left is still there; when to try again."""

    def acquire(
        self, request: Request, *, slot: str, attempt: str = "", timeout: float = 0.0
    ) -> tuple[DeviceLease, ...]:
        """A lease of each device. Waits at most ``timeout`` seconds.

        ``attempt``: the name of the directory that the attempt will have in ``attempts``.

        Raises:
            DeviceBusy: not within that time.
            NoSuchDevices: never, on this node.
        """
        name = uuid.uuid4().hex[:12]
        until = time.monotonic() + timeout
        ticket: Queueing | None = None
        try:
            look = _Look(self)
            while True:
                self._settle(request)
                with self._ledger.mutex():
                    choice = self._choose(request, look.situation, ticket)
                    if choice.devices and look.age < look.good_for:
                        wanted = Held(
                            device="",
                            lease=name,
                            share=request.share,
                            memory_mb=request.memory_mb,
                            slot=slot,
                            attempt=attempt,
                            pid=os.getpid(),
                            start=_start_of(os.getpid()),
                            since=time.time(),
                            user=request.user,
                        )
                        return self._take(wanted, choice.devices)
                    if not choice.devices and not choice.never and ticket is None and timeout > 0:
                        ticket = self._ledger.queue(request, name)
                if choice.never:
                    raise NoSuchDevices(choice.why)
                if not choice.devices:
                    if time.monotonic() >= until:
                        raise DeviceBusy(choice.why)
                    if ticket is not None:
                        ticket.beat()
                    time.sleep(_AGAIN_S)
                look.refresh()
        except LedgerBusy as error:
            raise DeviceBusy(str(error)) from error
        finally:
            if ticket is not None:
                ticket.close()

    def reap(self) -> None:
        """Clear up after every dead holder, and strike its leases.

        Never raises for one that resists: its device is quarantined.
        """
        self._settle(Request())
        with contextlib.suppress(LedgerBusy), self._ledger.mutex():
            self._standing()
            self._ledger.tidy()

    def situation(self) -> Situation:
        """How it stands now. Changes nothing."""
        look = self.look()
        held = [
            replace(one.held, quarantined=self._why_blocked(one))
            for one in self._ledger.found()
            if one.alive or self._uncleared(one)
        ]
        return replace(look, held=held, remembered=self._ledger.book().usage)

    def look(self) -> Situation:
        """What the driver and the attempts show; without leases."""
        snapshot: Snapshot = self._inventory.snapshot()
        pids = {one.pid for device in snapshot.devices for one in device.processes}
        return Situation(
            snapshot=snapshot,
            drained=self._drained(),
            ours=self._owners(self._attempts, pids) if pids else {},
        )

    # --- under the mutex

    def _choose(self, request: Request, seen: Situation, ticket: Queueing | None) -> Choice:
        situation = replace(seen, held=self._standing(), remembered=self._ledger.book().usage)
        withheld = self._withheld(situation, None if ticket is None else ticket.name)
        return choose(request, situation, self._rules, withheld)

    def _standing(self) -> list[Held]:
        """Every lease that still stands; those of the dead whose trace is gone are struck."""
        standing = []
        now = time.time()
        for one in self._ledger.found():
            if one.alive:
                standing.append(one.held)
            elif self._uncleared(one):
                why = self._why_blocked(one) or _CLEARING
                standing.append(replace(one.held, quarantined=why))
            else:
                self._ledger.strike(one, now)
                self._blocked.pop(one.held.lease, None)
        return standing

    def _withheld(self, situation: Situation, own: str | None) -> frozenset[str]:
        """What is held back for those that have waited longer than ``own``."""
        withheld: set[str] = set()
        for ticket in self._ledger.tickets():
            if own is not None and ticket.name >= own:
                break
            if not ticket.awake:
                continue
            choice = choose(ticket.request, situation, self._rules, frozenset(withheld))
            if choice.devices:
                withheld |= set(choice.devices)
            elif not choice.never and time.monotonic() - ticket.since > self._patience:
                idle = self._idle(ticket.request, situation, withheld)
                withheld |= set(idle[: ticket.request.count])
        return frozenset(withheld)

    def _idle(self, request: Request, situation: Situation, withheld: set[str]) -> list[str]:
        """Devices that ``request`` could have, alone."""
        found = []
        for device in situation.snapshot.usable:
            if device.uuid in withheld:
                continue
            alone = replace(request, count=1, only=frozenset({device.uuid}))
            if choose(alone, situation, self._rules).devices:
                found.append(device.uuid)
        if request.only is not None:
            found = [one for one in found if one in request.only]
        return found

    def _take(self, wanted: Held, devices: tuple[str, ...]) -> tuple[DeviceLease, ...]:
        taken: list[DeviceLease] = []
        try:
            for device in sorted(devices):
                taken.append(self._ledger.take(replace(wanted, device=device)))
        except BaseException:
            for lease in taken:
                lease.close()  # nobody's now: the next decision strikes it
            raise
        return tuple(taken)

    # --- what the dead left

    def _settle(self, request: Request) -> None:
        """End what dead holders of devices that ``request`` could have left. Not in the mutex:
        an engine takes its time."""
        now = time.monotonic()
        for one in self._ledger.found():
            concerns = request.only is None or one.held.device in request.only
            if not concerns or not self._forsaken(one):
                continue
            if now < self._blocked.get(one.held.lease, ("", 0.0))[1]:
                continue
            why = self._end(one)
            if why:
                again = time.monotonic() + _SETTLE_AGAIN_S
                self._blocked[one.held.lease] = (why, again)
                log.warning("device.quarantined device=%s why=%s", one.held.device, why)
            else:
                self._blocked.pop(one.held.lease, None)

    def _forsaken(self, one: Found) -> bool:
        """Whether the attempt of a lease is there, and no keeper looks after it."""
        if not self._uncleared(one):
            return False
        directory = self._attempts / one.held.attempt
        if lock.alive(directory) or _another_lives(one.held):
            return False
        # without a record, and held: its supervisor is about to start it
        return not one.alive or lock.read(directory) is not None

    def _uncleared(self, one: Found) -> bool:
        return bool(one.held.attempt) and (self._attempts / one.held.attempt).exists()

    def _end(self, one: Found) -> str:
        """Settle the attempt of a lease. Why it cannot be done; '' if it is."""
        directory = self._attempts / one.held.attempt
        try:
            done = settle(directory, (one.path,), timeout=_SETTLE_WITHIN_S)
        except PlatformError as error:
            return str(error)
        log.info("device.settled attempt=%s outcome=%s", directory.name, done.outcome)
        if done.outcome is not Settlement.BLOCKED:
            return ""
        if done.held:
            return f"processes of attempt {directory.name} cannot be ended"
        return f"the container of attempt {directory.name} may still run: its engine is silent"

    def _why_blocked(self, one: Found) -> str:
        return self._blocked.get(one.held.lease, ("", 0.0))[0]


def _start_of(pid: int) -> int:
    entry = procfs.process(pid)
    return 0 if entry is None or entry.dead else entry.start


def _another_lives(held: Held) -> bool:
    """Whether another process, which took the lease, is there to clear up after its attempt."""
    return held.pid != os.getpid() and 0 != _start_of(held.pid) == held.start


class _Look:
    """What the driver said, and how long ago."""

    def __init__(self, claims: Claims) -> None:
        self._claims = claims
        self._look()

    def _look(self) -> None:
        begun = time.monotonic()
        self.situation = self._claims.look()
        self._at = time.monotonic()
        # a driver that takes long is not asked all the time
        self.good_for = max(_FRESH_S, 5 * (self._at - begun))

    @property
    def age(self) -> float:
        return time.monotonic() - self._at

    def refresh(self) -> None:
        if self.age >= self.good_for:
            self._look()
