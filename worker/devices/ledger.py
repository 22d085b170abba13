"""The files by which all processes of a node agree on who has which device.

::

    DIR/mutex              held for the moment of a decision
    DIR/leases/DEVICE~ID   one for each device and lease; flock'd by whoever holds the lease
    DIR/tickets/NUMBER~ID  one for each request that waits, flock'd by who waits; the oldest first
    DIR/book.json          what is remembered of each device

A lease ends when the last process that has its file open is gone, by whatever death. It is never
unlocked by LOCK_UN, which would end it for all of them. Its file is made and deleted under the
mutex only, and gets its name when it is locked already: nobody can find it and not find it held.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, Protocol

from worker.devices import leases
from worker.devices.allocation import Held, Request, Usage

log = logging.getLogger(__name__)

MUTEX_WITHIN_S: Final = 10.0
_AGAIN_S: Final = 0.001
_BEAT_EVERY_S: Final = 0.5
_ASLEEP_AFTER_S: Final = 3.0
_SEPARATOR: Final = "~"
_OF_A_LEASE: Final = tuple(one.name for one in fields(Held))


class LedgerBusy(Exception):
    """The mutex is not to be had: whoever has it stands still."""


class DeviceLease:
    """A lease that this process holds."""

    def __init__(self, held: Held, fd: int) -> None:
        self.held = held
        self._fd = fd

    @property
    def fd(self) -> int:
        """The open file, to be passed to a keeper; -1 once this process has closed it."""
        return self._fd

    def close(self) -> None:
        """Let go of this process's copy. Safe to call twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A lease as its file has it."""

    held: Held
    path: Path
    alive: bool
    """Somebody has it open."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ticket:
    """A request that waits."""

    name: str
    """Sorts by age."""
    request: Request
    since: float
    """Seconds of time.monotonic(), which all processes of a host share."""
    awake: bool
    """Who waits looks again and again: one that stands still holds nobody up."""


class Queueing(Protocol):
    """A ticket that this process holds."""

    @property
    def name(self) -> str: ...

    def beat(self) -> None:
        """Say that it is still waited."""
        ...

    def close(self) -> None: ...


class Ledger(Protocol):
    """What a pool needs. `FileLedger` is the one; tests put faults into another."""

    def mutex(self) -> AbstractContextManager[None]:
        """One process at a time decides. Raises `LedgerBusy`."""
        ...

    def found(self) -> list[Found]:
        """Every lease, those of dead holders too."""
        ...

    def take(self, held: Held) -> DeviceLease:
        """Write a new lease down and hold it. Under the mutex."""
        ...

    def strike(self, found: Found, now: float) -> None:
        """Delete the lease of a dead holder, and count what it used. Under the mutex."""
        ...

    def tickets(self) -> list[Ticket]:
        """Those that wait, the oldest first. Under the mutex; deletes those of the dead."""
        ...

    def queue(self, request: Request, lease: str) -> Queueing:
        """Wait, behind all that do. Under the mutex."""
        ...

    def tidy(self) -> None:
        """Delete what those left that died in a decision. Under the mutex."""
        ...

    def book(self) -> Book: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Totals:
    """What a device was used for since the node's state was made."""

    jobs: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Book:
    """What is remembered of the devices."""

    grants: int = 0
    usage: Mapping[str, Usage]
    totals: Mapping[str, Totals]


class FileLedger:
    """See the module. Every method may be called by any process of the node's user."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._leases = directory / "leases"
        self._tickets = directory / "tickets"
        self._book = directory / "book.json"
        self._open: Book | None = None
        """As it will be written at the end of the decision, if it was changed in it."""

    @contextmanager
    def mutex(self) -> Iterator[None]:
        fd = self._mutex()
        try:
            _lock(fd, time.monotonic() + MUTEX_WITHIN_S, self._directory)
            try:
                yield
            finally:
                self._put_away()
        finally:
            os.close(fd)

    def _mutex(self) -> int:
        path, flags = self._directory / "mutex", os.O_RDWR | os.O_CLOEXEC
        try:
            return os.open(path, flags)
        except FileNotFoundError:
            # the mutex comes last: where it is, the others are
            for one in (self._leases, self._tickets):
                one.mkdir(mode=0o700, parents=True, exist_ok=True)
            return os.open(path, flags | os.O_CREAT, 0o600)

    def found(self) -> list[Found]:
        found = []
        for path in _files(self._leases):
            # looked at first: one that is free now has been written to its end
            alive = leases.held(path)
            held = _held(path)
            if held is not None:
                found.append(Found(held=held, path=path, alive=alive))
        return found

    def take(self, held: Held) -> DeviceLease:
        name = f"{held.device}{_SEPARATOR}{held.lease}"
        fd = _locked_file(self._leases, name, {key: getattr(held, key) for key in _OF_A_LEASE})
        book = self.book()
        usage = Usage(given=book.grants + 1, last_user=held.user)
        self._open = replace(book, grants=book.grants + 1, usage={**book.usage, held.device: usage})
        return DeviceLease(held, fd)

    def strike(self, found: Found, now: float) -> None:
        book, device = self.book(), found.held.device
        before = book.totals.get(device, Totals())
        total = Totals(
            jobs=before.jobs + 1, seconds=before.seconds + max(0.0, now - found.held.since)
        )
        found.path.unlink(missing_ok=True)
        self._open = replace(book, totals={**book.totals, device: total})

    def tickets(self) -> list[Ticket]:
        waiting = []
        for path in sorted(_files(self._tickets)):
            if not leases.held(path):
                path.unlink(missing_ok=True)
                continue
            content = leases.read(path)
            with contextlib.suppress(KeyError, TypeError, FileNotFoundError):
                since = float(content.pop("since"))
                only = content.pop("only")
                request = Request(**content, only=None if only is None else frozenset(only))
                awake = time.time() - path.stat().st_mtime < _ASLEEP_AFTER_S
                ticket = Ticket(name=path.name, request=request, since=since, awake=awake)
                waiting.append(ticket)
        return waiting

    def queue(self, request: Request, lease: str) -> Queueing:
        now = time.monotonic()
        name = f"{time.monotonic_ns():020d}{_SEPARATOR}{lease}"
        only = None if request.only is None else sorted(request.only)
        fd = _locked_file(self._tickets, name, {**asdict(request), "only": only, "since": now})
        return _Waiting(self._tickets / name, fd)

    def tidy(self) -> None:
        for place in (self._leases, self._tickets):
            for hidden in place.glob(".*"):  # made and named within one decision
                hidden.unlink(missing_ok=True)

    def book(self) -> Book:
        if self._open is not None:
            return self._open
        try:
            content = json.loads(self._book.read_bytes())
            return Book(
                grants=int(content["grants"]),
                usage={key: Usage(given=n, last_user=who) for key, n, who in content["usage"]},
                totals={key: Totals(jobs=n, seconds=s) for key, n, s in content["totals"]},
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return Book(usage={}, totals={})

    def _put_away(self) -> None:
        book, self._open = self._open, None
        if book is None:
            return
        # Over what stood there, in one call: ext4 writes a file that is renamed over another out
        # at once, which takes longer than everything else here.
        try:
            fd = os.open(self._book, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.pwrite(fd, json.dumps(_flat(book)).encode().ljust(os.fstat(fd).st_size), 0)
            finally:
                os.close(fd)
        except OSError as error:  # a full disk: a lease that was taken must come to its taker
            log.warning("device.book_lost error=%s", error)


class _Waiting:
    """A ticket that this process holds."""

    def __init__(self, path: Path, fd: int) -> None:
        self._path = path
        self._fd = fd
        self._beat_at = 0.0

    @property
    def name(self) -> str:
        return self._path.name

    def beat(self) -> None:
        now = time.monotonic()
        if now >= self._beat_at:
            os.utime(self._fd)
            self._beat_at = now + _BEAT_EVERY_S

    def close(self) -> None:
        """Safe to call twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._path.unlink(missing_ok=True)  # nobody else deletes it while it is locked
            os.close(fd)


def _lock(fd: int, until: float, directory: Path) -> None:
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise LedgerBusy(
                    f"{directory}: another process has decided for {MUTEX_WITHIN_S:g} s"
                ) from None
            time.sleep(_AGAIN_S)
        else:
            return


def _locked_file(directory: Path, name: str, content: Mapping[str, Any]) -> int:
    """A new file with this content, which has its name only once it is locked."""
    hidden = directory / f".{name}"
    fd = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.pwrite(fd, json.dumps(content).encode(), 0)
        hidden.rename(directory / name)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _flat(book: Book) -> dict[str, Any]:
    return {
        "grants": book.grants,
        "usage": [(key, one.given, one.last_user) for key, one in book.usage.items()],
        "totals": [(key, one.jobs, one.seconds) for key, one in book.totals.items()],
    }


def _files(directory: Path) -> list[Path]:
    try:
        names = os.listdir(directory)  # noqa: PTH208 - it is empty nearly always
    except FileNotFoundError:
        return []
    return [directory / name for name in names if not name.startswith(".")]


def _held(path: Path) -> Held | None:
    """None: it was deleted meanwhile, or is no lease.

    What cannot be read, or was written by another version, is a lease of the device all the same:
    its name says which, and nobody else may have it.
    """
    device, separator, lease = path.name.rpartition(_SEPARATOR)
    content = leases.read(path)
    if not separator or (not content and not path.exists()):
        return None
    known = {name: value for name, value in content.items() if name in _OF_A_LEASE}
    return Held(**{**known, "device": device, "lease": lease})
