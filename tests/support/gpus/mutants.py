"""Ledgers with a fault put in from below, to show that the tests of the pool notice it."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from worker.devices.allocation import Held, Request
from worker.devices.ledger import Book, DeviceLease, FileLedger, Found, Ledger, Queueing, Ticket


@dataclass
class Sound:
    """As it is; what the mutants are made of."""

    within: Ledger

    @contextmanager
    def mutex(self) -> Iterator[None]:
        with self.within.mutex():
            yield

    def found(self) -> list[Found]:
        return self.within.found()

    def take(self, held: Held) -> DeviceLease:
        return self.within.take(held)

    def strike(self, found: Found, now: float) -> None:
        self.within.strike(found, now)

    def tickets(self) -> list[Ticket]:
        return self.within.tickets()

    def queue(self, request: Request, lease: str) -> Queueing:
        return self.within.queue(request, lease)

    def tidy(self) -> None:
        self.within.tidy()

    def book(self) -> Book:
        return self.within.book()


@dataclass
class Slow(Sound):
    """Between the decision and the lease there is time for others."""

    seconds: float = 0.003

    def take(self, held: Held) -> DeviceLease:
        time.sleep(self.seconds)
        return self.within.take(held)


@dataclass
class WithoutMutex(Slow):
    """Everybody decides at once."""

    @contextmanager
    def mutex(self) -> Iterator[None]:
        with self.within.mutex():
            pass  # the directories are there
        yield


@dataclass
class WithoutTickets(Sound):
    """Nobody knows who has waited longer."""

    def tickets(self) -> list[Ticket]:
        return []


class _Unlocking(DeviceLease):
    def close(self) -> None:
        if self.fd >= 0:
            fcntl.flock(self.fd, fcntl.LOCK_UN)
        super().close()


@dataclass
class Unlocking(Sound):
    """Releases by LOCK_UN: for every process that has the file, not for this one."""

    def take(self, held: Held) -> DeviceLease:
        lease = self.within.take(held)
        return _Unlocking(lease.held, lease.fd)


@dataclass
class Forgetful(Sound):
    """A lease whose taker has ended is nobody's, whoever else has it open."""

    def found(self) -> list[Found]:
        there = []
        for one in self.within.found():
            if Path(f"/proc/{one.held.pid}").exists():
                there.append(one)
        return there


KINDS = {
    "sound": Sound,
    "slow": Slow,
    "without_mutex": WithoutMutex,
    "without_tickets": WithoutTickets,
    "unlocking": Unlocking,
    "forgetful": Forgetful,
}


def ledger(kind: str, directory: Path) -> Ledger:
    return KINDS[kind](FileLedger(directory))
