"""A node's pool with real keepers, in a directory of a test."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.gpus import stand_in
from tests.support.gpus.mutants import ledger
from tests.support.runtimes import PYTHON, soon
from worker.devices.allocation import Request, Rules
from worker.devices.inventory import Inventory
from worker.devices.nvml import NvmlInventory
from worker.devices.pool import DevicePool, HeldGrant, devices_directory
from worker.keeper import lock, procfs
from worker.keeper.settle import settle
from worker.plan import AttemptId, LaunchPlan, Limits
from worker.runtimes.base import Handle
from worker.runtimes.native import NativeRuntime

ROOT = Path(__file__).resolve().parents[3]


@dataclass
class Node:
    """Pools of one directory: each stands for another process of the node."""

    root: Path
    inventory: Inventory = field(default_factory=NvmlInventory)
    rules: Rules = field(default_factory=Rules)
    ledger: str = "sound"
    patience: float = 0.2
    abandon_after: float = 0.3
    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _runtime: NativeRuntime | None = None

    @property
    def attempts(self) -> Path:
        return self.root / "state" / "attempts"

    @property
    def leases(self) -> Path:
        return self.root / "leases"

    def pool(self) -> DevicePool:
        self.attempts.mkdir(parents=True, exist_ok=True)
        self.leases.mkdir(exist_ok=True)
        return DevicePool(
            leases=self.leases,
            attempts=self.attempts,
            inventory=self.inventory,
            rules=self.rules,
            ledger=ledger(self.ledger, devices_directory(self.leases)),
            patience=self.patience,
        )

    def take(
        self, count: int = 1, *, timeout: float = 0.0, attempt: str = "", **request: Any
    ) -> HeldGrant:
        """A grant in a slot of its own."""
        slot = f"slot{next(self._numbers)}-{os.getpid()}"
        asked = Request(count=count, **request)
        return self.pool().grant(slot, asked, attempt=attempt, timeout=timeout)

    @property
    def runtime(self) -> NativeRuntime:
        if self._runtime is None:
            self._runtime = NativeRuntime(
                state_root=self.root / "state", abandon_after=self.abandon_after
            )
        return self._runtime

    def start(
        self, source: str, count: int = 1, *, lease: float = 60.0, **request: Any
    ) -> tuple[Handle, LaunchPlan]:
        """A native job with devices, under a keeper. ``lease``: seconds for which it is held."""
        attempt = AttemptId(job_id=f"job-{next(self._numbers)}-{os.getpid()}", fence=1)
        held = self.take(count, attempt=str(attempt), **request)
        place = self.root / "state"
        plan = LaunchPlan(
            attempt=attempt,
            argv=(PYTHON, "-S", "-u", "-c", source),
            env=dict(held.grant.env),
            data=None,
            checkpoints=place / "checkpoints" / str(attempt),
            output=place / "output" / str(attempt),
            scratch=place / "work" / str(attempt),
            state=self.attempts / str(attempt),
            limits=Limits(),
            grant=held.grant,
        )
        try:
            return self.runtime.start(plan, soon(lease)), plan
        finally:
            held.release()

    def keeper(self, plan: LaunchPlan) -> lock.KeeperRecord:
        record = lock.read(plan.state)
        assert record is not None
        return record

    def holder(self, count: int = 1) -> subprocess.Popen[str]:
        """Another process that takes devices and keeps them; it has said so when this returns."""
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.devices.holder", str(self.root), str(count)],
            stdout=subprocess.PIPE,
            stdin=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "LD_LIBRARY_PATH": str(stand_in.library())},
        )
        assert process.stdout is not None
        assert process.stdout.readline().startswith("held"), process.wait(5)
        return process

    def close(self) -> None:
        if self._runtime is not None:
            for handle in self._runtime.recover():
                handle.remove()
            self._runtime.close()
        for directory in self.attempts.glob("*"):
            settle(directory)


def gone(pid: int) -> bool:
    entry = procfs.process(pid)
    return entry is None or entry.dead
