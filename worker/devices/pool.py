"""All devices of a node and who holds them, shared by its processes through lease files."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tasks.errors import RuntimeUnavailable
from worker.devices import leases
from worker.devices.leases import LeaseFile
from worker.keeper import lock
from worker.keeper.settle import Settled, Settlement, settle
from worker.plan import Grant

_LOOK_FOR = 0.2
_AGAIN = 0.002

_NO_GPUS = {
    "CUDA_VISIBLE_DEVICES": "",
    "HIP_VISIBLE_DEVICES": "",
    "ROCR_VISIBLE_DEVICES": "",
    "NVIDIA_VISIBLE_DEVICES": "void",
}


class HeldGrant:
    """A grant with this process's copies of its leases.

    Releasing it lets go of the copies only: where a keeper was started with the grant, the keeper
    holds it until the attempt is removed.
    """

    def __init__(self, grant: Grant, held: tuple[LeaseFile, ...]) -> None:
        self.grant = grant
        self._held = held

    def release(self) -> None:
        """Safe to call twice."""
        for lease in self._held:
            lease.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


class DevicePool:
    """Grants devices; what a dead keeper left on them is settled first."""

    def __init__(self, *, leases: Path, attempts: Path) -> None:
        """``leases``: the directory of lease files. ``attempts``: that of attempts' state."""
        self._leases = leases
        self._attempts = attempts

    def grant_cpu(self, slot: str) -> HeldGrant:
        """The whole CPU slot ``slot``.

        Raises:
            RuntimeUnavailable: somebody holds it; the message says who.
        """
        # Settled before the lease is taken, never after: whoever settles kills the holders of the
        # lease, and must not find a new one among them.
        for settled in self.settle(slot):
            if settled.outcome is Settlement.BLOCKED:
                raise RuntimeUnavailable(
                    f"slot {slot}: what attempt {settled.directory.name} left behind still holds "
                    f"{', '.join(map(str, settled.held)) or 'its processes'}"
                )
        lease = self._take(slot)
        grant = Grant(slot=slot, env=_NO_GPUS, fds=(lease.fd,))
        return HeldGrant(grant, (lease,))

    def settle(self, slot: str) -> list[Settled]:
        """Settle every attempt of ``slot`` whose keeper is dead."""
        if not self._attempts.is_dir():
            return []
        path = self._leases / (slot + leases.SUFFIX)
        found = []
        for directory in sorted(self._attempts.iterdir()):
            record = lock.read(directory)
            if record is not None and record.slot == slot and not lock.alive(directory):
                found.append(settle(directory, (path,)))
        return found

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
