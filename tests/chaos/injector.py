"""Does what the schedule says to the processes of a cluster, and mends it when its time is over.

In a thread of its own: what it breaks holds up whoever asks Redis, and nothing but it mends that.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import redis

from tests.chaos.link import Link
from tests.chaos.schedule import Fault, Kind
from tests.support.live_node import LiveNode
from tests.support.nodes import gone
from tests.support.redis_server import RedisServer
from tests.support.wall_clock import WallClock
from worker.keeper import lock, procfs

_TICK: Final = 0.02
_GONE_WITHIN: Final = 120.0
"""Seconds that a node has to end when it is told to: long, for a host that is busy."""


class Engine(Protocol):
    """A container engine that can be killed, and started again."""

    def kill(self) -> None: ...

    def start(self) -> object: ...


class Host:
    """One node, its way to Redis, and its wall clock."""

    def __init__(self, node: LiveNode, link: Link, clock: WallClock) -> None:
        self.node = node
        self.link = link
        self.clock = clock
        self.absent = False
        """It was killed or stopped, and is to be started again."""

    def start(self) -> None:
        self.node.launch()
        self.absent = False


class Injector:
    """A context manager: the harm begins with it, and all is mended when it ends."""

    def __init__(
        self,
        server: RedisServer,
        hosts: list[Host],
        faults: Iterator[Fault],
        engine: Engine | None = None,
    ) -> None:
        self._server = server
        self._hosts = hosts
        self._faults = faults
        self._engine = engine
        self._mends: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._busy: set[str] = set()
        self._redis = threading.Lock()
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="injector", daemon=True)
        self.done: Counter[Kind] = Counter()
        self.missed: Counter[Kind] = Counter()
        """There was nothing to hit."""

    def __enter__(self) -> Injector:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._mend_all()

    def check(self) -> None:
        """Raises what the thread has ended by."""
        if self._error is not None:
            raise self._error

    @contextlib.contextmanager
    def calm(self) -> Iterator[None]:
        """Redis is there, and stays for as long as the caller is in here."""
        while True:
            with self._redis:
                if "redis" not in self._busy:
                    yield
                    return
            time.sleep(_TICK)

    def _run(self) -> None:
        begun = time.monotonic()
        try:
            fault = next(self._faults)
            while not self._stop.is_set():
                self._step(time.monotonic())
                while fault.at <= time.monotonic() - begun and not self._stop.is_set():
                    with self._redis:
                        self._do(fault)
                    fault = next(self._faults)
                self._stop.wait(_TICK)
        except BaseException as error:
            self._error = error

    def _step(self, now: float) -> None:
        """Mend what is due."""
        while self._mends and self._mends[0][0] <= now:
            heapq.heappop(self._mends)[2]()

    def _mend_all(self) -> None:
        """Nothing is broken any more."""
        while self._mends:
            heapq.heappop(self._mends)[2]()
            time.sleep(_TICK)
        for host in self._hosts:
            if host.absent or host.node.process is None or host.node.process.poll() is not None:
                host.start()

    def _do(self, fault: Fault) -> None:
        host = self._hosts[fault.node]
        done = self._inject(fault, host)
        (self.done if done else self.missed)[fault.kind] += 1

    def _inject(self, fault: Fault, host: Host) -> bool:
        match fault.kind:
            case Kind.KILL_AGENT | Kind.LOSE_NODE | Kind.RESTART_NODE:
                return self._take_away(fault, host)
            case Kind.PARTITION:
                return self._once(f"link {fault.node}", fault.lasts, host.link.cut, host.link.mend)
            case Kind.REDIS_KILL:
                return self._once("redis", fault.lasts, self._server.kill, self._start_redis)
            case Kind.REDIS_FREEZE:
                return self._once("redis", fault.lasts, self._server.freeze, self._server.thaw)
            case Kind.REDIS_RESET:
                return self._reset()
            case Kind.CLOCK:
                host.clock.set(fault.lasts)
                return True
            case Kind.ENGINE:
                return self._restart_engine(fault)
        return self._signal(fault, _one_of(_pids(fault.kind, host), fault.target))

    def _restart_engine(self, fault: Fault) -> bool:
        engine = self._engine
        return engine is not None and self._once("engine", fault.lasts, engine.kill, engine.start)

    def _once(
        self, what: str, lasts: float, begin: Callable[[], None], end: Callable[[], object]
    ) -> bool:
        """Break ``what`` for a while; not while it is broken already."""
        if what in self._busy:
            return False
        self._busy.add(what)
        begin()

        def mend() -> None:
            end()
            self._busy.discard(what)

        self._later(lasts, mend)
        return True

    def _later(self, seconds: float, mend: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._mends, (time.monotonic() + seconds, self._number, mend))

    def _signal(self, fault: Fault, pid: int | None) -> bool:
        if pid is None or gone(pid):
            return False
        if fault.kind in (Kind.KILL_CHILD, Kind.KILL_WORKER, Kind.KILL_KEEPER):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            return True
        entry = procfs.process(pid)
        if entry is None or not procfs.send(entry, signal.SIGSTOP):
            return False
        self._later(fault.lasts, lambda: procfs.send(entry, signal.SIGCONT))
        return True

    def _take_away(self, fault: Fault, host: Host) -> bool:
        if host.absent or host.node.process is None:
            return False
        host.absent = True
        match fault.kind:
            case Kind.KILL_AGENT:
                host.node.process.kill()
                host.node.process.wait(10)
            case Kind.LOSE_NODE:
                host.node.kill_everything()
                for pid in _keepers(host.node):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            case _:
                host.node.process.send_signal(signal.SIGCONT)
                host.node.process.send_signal(signal.SIGUSR1)
        until = time.monotonic() + fault.lasts + _GONE_WITHIN
        self._later(fault.lasts, lambda: self._bring_back(host, until))
        return True

    def _bring_back(self, host: Host, until: float) -> None:
        """Start the node again; once it has ended, if it was told to."""
        if not host.absent:
            return
        assert host.node.process is not None
        if host.node.process.poll() is None:
            assert time.monotonic() < until, f"{host.node.name} does not end:\n{host.node.said}"
            self._later(0.1, lambda: self._bring_back(host, until))
        else:
            host.start()

    def _start_redis(self) -> None:
        self._server.start()

    def _reset(self) -> bool:
        client = self._server.client()
        try:
            if "redis" in self._busy:
                return False
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        except redis.RedisError:
            return False
        finally:
            client.close()
        return True


def _pids(kind: Kind, host: Host) -> list[int]:
    """The processes of which a fault of this kind hits one."""
    match kind:
        case Kind.KILL_CHILD | Kind.STOP_CHILD:
            return _children(host.node)
        case Kind.KILL_WORKER | Kind.STOP_WORKER:
            return _workers(host.node)
        case Kind.KILL_KEEPER | Kind.STOP_KEEPER:
            return _keepers(host.node)
        case _:
            return [] if host.absent or host.node.process is None else [host.node.process.pid]


def _one_of(pids: list[int], part: float) -> int | None:
    return pids[int(part * len(pids))] if pids else None


def _workers(node: LiveNode) -> list[int]:
    found = (node.worker(f"cpu{number}") for number in range(node.slots))
    return [pid for pid in found if pid is not None]


def _children(node: LiveNode) -> list[int]:
    """The pool children: a worker has no other child."""
    return [
        child
        for worker in _workers(node)
        for child in procfs.children(worker) or ()
        if not gone(child)
    ]


def _keepers(node: LiveNode) -> list[int]:
    found = []
    if node.paths.attempts.is_dir():
        for directory in sorted(node.paths.attempts.iterdir()):
            record = lock.read(directory)
            if record is not None and lock.alive(directory):
                found.append(record.pid)
    return found
