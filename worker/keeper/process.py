"""A native job as its keeper sees it: a child, and everything that descends from it."""

from __future__ import annotations

import math
import os
import time
from functools import partial

from worker.keeper import job, prctl, procfs, protocol
from worker.keeper.beside import Beside
from worker.keeper.family import Family
from worker.keeper.streams import Streams
from worker.keeper.tether import Tether
from worker.keeper.verdict import Usage, verdict
from worker.keeper.watch import READ, ChildSignal, Watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from worker.keeper.protocol import Exit, Spec


_NOT_EXECUTED = 127 << 8
"""The status, as of wait(2), of a program that could not be executed."""


class ProcessSubject:
    """See `worker.keeper.subject.Subject`."""

    def __init__(self, spec: Spec, leases: list[int], watch: Watch) -> None:
        self._spec = spec
        self._leases = leases
        self._watch = watch
        self._family = Family(os.getpid())
        self._tether = Tether()
        self._beside = Beside(spec, leases, watch, self._tether)
        self._streams = Streams(watch.forget)
        self._used = Usage()
        self._began = time.monotonic()
        self._wall = 0.0
        self._error = ""
        self.pid = 0
        self._status: int | None = None
        self.spools = self._streams.spools
        self.all_dead = False

    @property
    def ended(self) -> bool:
        return self._status is not None

    @property
    def tether(self) -> int:
        return self._tether.number

    @property
    def pauses(self) -> bool:
        return True

    @property
    def drained(self) -> bool:
        return self._streams.closed

    def start(self) -> None:
        self._children = ChildSignal()
        prctl.adopt_orphans()
        prctl.no_new_privileges()
        try:
            started = job.launch(self._spec, self._leases, self._tether)
        except job.CannotExecute as error:
            self._error = str(error)
            self._status = _NOT_EXECUTED
            return
        self.pid = started.pid
        self._streams.open(started.streams)
        self._watch.want(self._children.fd, READ, self._children.clear)

    def look(self, now: float) -> None:
        while not self.all_dead:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                self.all_dead = True
                return
            if pid == 0:
                return
            self._used.add(usage)
            if pid == self.pid:
                self._status = status
                self._wall = now - self._began
            else:
                self._beside.ended(pid, status)

    def next_due(self, now: float) -> float:
        return math.inf

    def declare(self) -> None:
        for index in range(protocol.STREAMS):
            mask = READ if self._streams.readable(index) else 0
            self._watch.want(self._streams.pipe(index), mask, partial(self._streams.read, index))

    def members(self) -> list[procfs.Process]:
        return self._family.members()

    def pids(self) -> list[int]:
        return procfs.below(os.getpid())

    def signal(self, number: int) -> None:
        if self._status is None:  # not yet waited for: the pid is still the job's
            os.kill(self.pid, number)

    def beside(self, argv: list[str], fds: list[int]) -> None:
        self._beside.start(argv, fds)

    def kill(self) -> None:
        self._family.kill()

    def stop(self) -> bool:
        return self._family.stop()

    def resume(self) -> None:
        self._family.resume()

    def unstoppable(self, now: float) -> bool:
        return False

    def drain(self) -> None:
        self._streams.drain()

    def exit(self, cause: str | None) -> Exit:
        return verdict(
            status=self._status,
            cause=cause,
            error=self._error,
            memory_mb=self._spec["memory_mb"],
            usage=self._used,
            wall_seconds=self._wall,
        )

    def leave(self) -> None:
        self._streams.close()
        self._beside.leave()
        self._children.close()
        self._tether.untie()
