"""Many processes that want devices and are killed at random: does the pool ever give one twice?

    python -m tests.support.gpus.stress --processes 12 --seconds 60

Each process takes 1 to 8 of 8 devices for a native job under a real keeper. The job itself locks a
witness of each of its devices: whoever finds one locked has seen a device that two jobs had. Some
jobs leave a daemon behind, which has the witness too. Workers, keepers and jobs get SIGKILL.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.support.gpus.mutants import KINDS, ledger
from worker.devices.allocation import Request
from worker.devices.claims import DeviceBusy
from worker.devices.inventory import Device, StaticInventory
from worker.devices.pool import DevicePool, devices_directory
from worker.keeper import lock, procfs
from worker.plan import AttemptId, LaunchPlan, Limits
from worker.runtimes.base import Chunk
from worker.runtimes.native import NativeRuntime

DEVICES = 8
WIDTHS = (1, 1, 1, 1, 1, 1, 2, 2, 3, 8)
STARVED_AFTER = 20.0
LEASE = 3.0
"""Seconds: until its end a keeper waits for a supervisor to come back."""
PYTHON = str(Path(sys.executable).resolve())

JOB = """
import fcntl, os, random, sys, time
place, me, *devices = sys.argv[1:]
kept = []
for device in devices:
    fd = os.open(f'{place}/witness-{device}', os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        with open(f'{place}/violations', 'a') as file: file.write(f'{device} {me}\\n')
    kept.append(fd)
if random.random() < 0.3 and os.fork() == 0:
    os.setsid()
    if os.fork() == 0: time.sleep(60)
    os._exit(0)
time.sleep(random.uniform(0.005, 0.05))
"""


def pool_in(place: Path, kind: str) -> DevicePool:
    leases = place / "leases"
    return DevicePool(
        leases=leases,
        attempts=place / "state" / "attempts",
        inventory=StaticInventory(
            Device(uuid=f"dev-{number}", memory_mb=80_000, index=number, tells_processes=False)
            for number in range(DEVICES)
        ),
        ledger=ledger(kind, devices_directory(leases)),
    )


def work(place: Path, kind: str, name: str) -> None:
    """One process: takes devices, runs a job, again and again."""
    random.seed(f"{name}{os.getpid()}")
    pool = pool_in(place, kind)
    runtime = NativeRuntime(state_root=place / "state", abandon_after=0.3)
    number = 0
    with (place / f"waits-{name}-{os.getpid()}").open("w", buffering=1) as waits:
        while True:
            number += 1
            width = random.choice(WIDTHS)
            attempt = AttemptId(job_id=f"{name}-{os.getpid()}-{number}", fence=1)
            begun = time.monotonic()
            try:
                held = pool.grant(
                    f"{name}-{os.getpid()}",
                    Request(count=width),
                    attempt=str(attempt),
                    timeout=STARVED_AFTER,
                )
            except DeviceBusy as error:
                waits.write(f"starved {width} {error}\n")
                continue
            waits.write(f"{width} {time.monotonic() - begun:.4f}\n")
            plan = LaunchPlan(
                attempt=attempt,
                argv=(PYTHON, "-S", "-c", JOB, str(place), str(attempt), *held.grant.devices),
                env={},
                data=None,
                checkpoints=place / "state" / "ck" / str(attempt),
                output=place / "state" / "out" / str(attempt),
                scratch=place / "state" / "work" / str(attempt),
                state=place / "state" / "attempts" / str(attempt),
                limits=Limits(),
                grant=held.grant,
            )
            try:
                handle = runtime.start(plan, time.monotonic() + LEASE)
                held.release()
                while isinstance(handle.read(0.5), Chunk | None):
                    handle.beat(time.monotonic() + LEASE)
                handle.remove()
            except Exception as error:  # its keeper was killed: the pool has to cope
                waits.write(f"# {error}\n")
                held.release()


def hammer(place: Path, kind: str, name: str) -> None:
    """One process that is the job itself: many more grants, with no deaths among them."""
    pool = pool_in(place, kind)
    with (place / f"waits-{name}-{os.getpid()}").open("w", buffering=1) as waits:
        while True:
            width = random.choice(WIDTHS)
            begun = time.monotonic()
            held = pool.grant(name, Request(count=width), timeout=STARVED_AFTER)
            waits.write(f"{width} {time.monotonic() - begun:.4f}\n")
            witnesses = []
            for device in held.grant.devices:
                fd = os.open(place / f"witness-{device}", os.O_RDWR | os.O_CREAT, 0o600)
                witnesses.append(fd)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    with (place / "violations").open("a") as file:
                        file.write(f"{device} {name}\n")
            time.sleep(random.uniform(0.001, 0.003))
            for fd in witnesses:
                os.close(fd)
            held.release()


@dataclass
class Figures:
    """What a run came to."""

    seconds: float = 0.0
    grants: int = 0
    wide: int = 0
    """Of all devices at once."""
    killed: dict[str, int] = field(default_factory=lambda: {"worker": 0, "keeper": 0, "job": 0})
    double: int = 0
    starved: int = 0
    leaked: int = 0
    longest_wait: float = 0.0
    longest_wide_wait: float = 0.0


Work = Callable[[Path, str, str], None]


class Worker:
    """A process of `work`, forked: one that is killed has a successor at once."""

    def __init__(self, place: Path, kind: str, name: str, does: Work = work) -> None:
        self.pid = os.fork()
        if self.pid:
            return
        try:
            sys.stderr = (place / "log").open("a")
            does(place, kind, name)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)

    def kill(self) -> None:
        """Safe to call twice."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0


def _kill(pid: int) -> bool:
    entry = procfs.process(pid)
    return entry is not None and not entry.dead and procfs.send(entry, signal.SIGKILL)


def run(processes: int, seconds: float, kind: str = "sound", *, kill: bool = True) -> Figures:
    """Let them loose; then end them all, and see what is left. ``kill``: else they only hammer."""
    place = Path(tempfile.mkdtemp(prefix="cyx-stress-"))
    for one in ("state/attempts", "leases"):
        (place / one).mkdir(parents=True)
    figures = Figures()
    does = work if kill else hammer
    workers = [Worker(place, kind, f"w{number}", does) for number in range(processes)]
    begun = time.monotonic()
    try:
        while time.monotonic() - begun < seconds:
            time.sleep(random.uniform(0.02, 0.15))
            if kill:
                _strike(place, kind, workers, figures)
        for worker in workers:
            worker.kill()
        figures.seconds = time.monotonic() - begun
        figures.leaked = _left(place, kind)
    finally:
        for worker in workers:
            worker.kill()
        _count(place, figures)
        shutil.rmtree(place, ignore_errors=True)
    return figures


def _strike(place: Path, kind: str, workers: list[Worker], figures: Figures) -> None:
    victim = random.choice(("worker", "keeper", "job"))
    if victim == "worker":
        number = random.randrange(len(workers))
        workers[number].kill()
        workers[number] = Worker(place, kind, f"w{number}")
        figures.killed[victim] += 1
        return
    records = [lock.read(one) for one in (place / "state" / "attempts").iterdir()]
    there = [one for one in records if one is not None]
    if there:
        record = random.choice(there)
        pid = record.pid if victim == "keeper" else record.job
        figures.killed[victim] += pid > 0 and _kill(pid)


def _left(place: Path, kind: str) -> int:
    """Leases and attempts that are still there when everybody has had time to end."""
    pool = pool_in(place, kind)
    until = time.monotonic() + 15
    while time.monotonic() < until:
        pool.reap()
        left = [*(devices_directory(place / "leases") / "leases").iterdir()]
        left += [*(place / "state" / "attempts").iterdir()]
        if not left:
            break
        time.sleep(0.05)
    if not left:
        pool.grant("last", Request(count=DEVICES)).release()
    return len(left)


def _count(place: Path, figures: Figures) -> None:
    for path in place.glob("waits-*"):
        for line in path.read_text().splitlines():
            if line.startswith("#"):
                continue
            if line.startswith("starved"):
                figures.starved += 1
                continue
            width, waited = line.split()
            figures.grants += 1
            figures.longest_wait = max(figures.longest_wait, float(waited))
            if int(width) == DEVICES:
                figures.wide += 1
                figures.longest_wide_wait = max(figures.longest_wide_wait, float(waited))
    seen = place / "violations"
    figures.double = len(seen.read_text().splitlines()) if seen.exists() else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--ledger", choices=sorted(KINDS), default="sound")
    parser.add_argument("--hammer", action="store_true", help="kill nobody")
    asked = parser.parse_args()
    figures = run(asked.processes, asked.seconds, asked.ledger, kill=not asked.hammer)
    print(json.dumps(asdict(figures), indent=1))
    return 0 if not (figures.double or figures.starved or figures.leaked) else 1


if __name__ == "__main__":
    sys.exit(main())
