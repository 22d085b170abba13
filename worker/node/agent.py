"""The agent: one process per node that keeps a Celery worker in each slot, and the node known.

It may die without harm: the slot workers go on, and the next agent of the state directory takes
them over. One SIGTERM or SIGINT drains (jobs in progress end first), a second one has jobs handed
back, a third one kills. SIGQUIT has them handed back at once. SIGUSR1 stops the node and leaves its
jobs running: its next start goes on with them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import redis

from tasks.errors import ConfigError
from tasks.record import Records
from tasks.settings import Settings
from worker.config import NodeConfig, ensure_supported_platform
from worker.devices import leases
from worker.engines import Engines
from worker.giving_back import GivingBack
from worker.node import self_description, slot_records, systemd
from worker.node.adoption import Leftovers
from worker.node.cordoned import Cordoning
from worker.node.device_care import DeviceCare
from worker.node.engine_care import EngineCare
from worker.node.gpu_slots import gpu_slots
from worker.node.identity import AgentLock, NodeIdentity, identify, require_pidfd
from worker.node.log import event
from worker.node.node_orders import NodeOrders
from worker.node.nursery import Nursery
from worker.node.paths import NodePaths
from worker.node.redis_advice import advice
from worker.node.registry import (
    Heartbeat,
    NodeRecord,
    NodeRegistry,
    NodeState,
    SlotEntry,
    usable_cores,
)
from worker.node.reload import reloaded
from worker.node.restarts import RestartPolicy
from worker.node.services import cluster_services
from worker.node.shaping import Shaping
from worker.node.slot_worker import SlotWorker, WorkerState
from worker.node.slots import (
    PRELOADED,
    Launch,
    Slot,
    celery_command,
    celery_env,
    cpu_slots,
    digest_of,
)
from worker.node.stop_bell import StopBell
from worker.trust.keyring import Keyring
from worker.trust.node_key import Ending, enrolment_of, node_signer
from worker.trust.secrets import Secrets

_TIDY_EVERY: Final = 30.0
_LOOK_AT_DEVICES_EVERY: Final = 1.0


class Service(Protocol):
    """Something that runs beside the slots, on threads of its own, as long as the agent does."""

    def start(self) -> None: ...

    def stop(self) -> None:
        """Returns when its threads have ended. Safe to call twice."""
        ...


class Agent:
    """A node's agent. `run` it in the main thread, or call `request_stop` from another."""

    def __init__(
        self,
        config: NodeConfig,
        settings: Settings,
        *,
        config_path: Path | None = None,
        command: Callable[[Slot], list[str]] | None = None,
        env: Mapping[str, str] | None = None,
        log_to_stderr: bool = False,
        drain: float | None = None,
        kill_after: float = 15.0,
        restarts: RestartPolicy | None = None,
        services: Callable[[NodeIdentity], Sequence[Service]] | None = None,
        reread: Callable[[], NodeConfig] | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """
        ``settings``: the Redis that is really used, which slot workers are told.
        ``config_path``: the file that ``config`` was read from; slot workers read it too.
        ``command``: the command line of a slot's worker (default: Celery's).
        ``env``: what slot workers inherit (default: this process's environment).
        ``drain``: seconds that jobs in progress have at a stop; None: as long as they take.
        ``kill_after``: seconds that a slot worker has to hand its job back.
        ``services``: made once the node has its identity (default: `cluster_services`).
        ``reread``: reads the configuration again; None: a SIGHUP changes nothing.
        ``say``: takes the lines for people (default: stdout).
        """
        self._config = config
        self._settings = settings
        self._drain = drain
        self._say = say or _say
        self._paths = NodePaths(state_dir=config.node.state_dir)
        self._make_services = services or partial(cluster_services, config, settings, self._paths)
        self._engines = Engines(
            config, abandon_after=settings.lease_ttl_ms / 1000 + config.timeouts.lease_grace
        )
        self._devices = DeviceCare(config, self._paths)
        gpus = gpu_slots(config, self._devices.snapshot)
        self._care = EngineCare(
            config,
            self._engines,
            has_gpus=bool(gpus),
            changed=lambda: self._bell.nudge(),
        )
        giving_back = GivingBack(
            Records(settings.connect(), settings.keys, terminal_ttl_s=settings.result_ttl_s),
            f"its keeper on {config.node.name} died",
        )
        self._leftovers = Leftovers(self._paths, self._engines.recovering, giving_back.put)
        self._launch = Launch(
            command=command or celery_command(config.node.name),
            env=celery_env(
                config,
                settings,
                config_path=config_path,
                inherited=os.environ if env is None else env,
            ),
            digest=digest_of(config, settings),
            log_to_stderr=log_to_stderr,
            restarts=restarts or RestartPolicy(),
            kill_after=kill_after,
        )
        # a command of another's is not imported for
        modules = PRELOADED if command is None else ()
        self._nursery = Nursery(modules, self._launch.env, config.node.state_dir)
        self._slots = (*cpu_slots(config.slots.cpu_slots(usable_cores())), *gpus)
        self._shaping = Shaping(
            config,
            settings,
            paths=self._paths,
            slots=self._slots,
            devices=self._devices,
            make=self._worker,
            busy=self._has_job,
        )
        self._workers: list[SlotWorker] = []
        self._state = NodeState.STARTING
        self._ready = threading.Event()
        self._bell = StopBell()
        self._reread = reread
        self._reloads = 0
        self._offered: tuple[str, bool] | None = None
        self._obeyed = 0
        self._left = False
        self._drain_until: float | None = None
        self._tidy_at = 0.0
        self._ending = Ending(None)
        self._said: dict[str, int | None] = {}
        self._shown: tuple[SlotEntry, ...] = ()
        self._told: tuple[object, ...] = ()
        self._cordoning = Cordoning(self._bell.nudge)

    def run(self) -> int:
        """Serve until stopped; the exit code.

        Raises:
            PlatformError: this host cannot be a node.
            ConfigError: the state directory is not safe to use, or a file of trust.keys,
                trust.secrets or trust.enrolment, or the node's key, is wrong.
            NodeConflict: another agent has the state directory, or a live node the name.
            RedisUnavailable: Redis does not answer.
        """
        ensure_supported_platform()
        require_pidfd()
        Keyring(self._config.trust.keys).check()
        Secrets(self._config.trust.secrets).names()
        self._paths.create()
        node_signer(self._config, self._paths)  # the key is made before a slot needs it
        self._ending = Ending(enrolment_of(self._config, self._paths))
        with contextlib.ExitStack() as stack:
            stack.enter_context(AgentLock.take(self._paths))
            self._nursery.start()
            stack.callback(self._nursery.close)
            self._settings.check()
            stack.enter_context(self._bell)
            identity = identify(self._config.node.name, self._paths)
            client = self._settings.connect()
            stack.callback(client.close)
            for text in advice(client):
                event("redis.unsafe", level=logging.WARNING, why=text)
            self._ending.say(time.time())
            registry = NodeRegistry(client, self._settings.keys, identity)
            self._cordoning.told(registry.beat(self._record(identity)))
            stack.callback(_leave, registry)
            event("node.started", node=identity.name, pid=identity.pid, slots=len(self._slots))
            heartbeat = Heartbeat(registry, lambda: self._record(identity), self._cordoning.told)
            self._take_over()
            stack.callback(self._let_go)
            heartbeat.start()
            stack.callback(heartbeat.stop)
            stack.callback(self._engines.close)
            orders = NodeOrders(self._settings, identity.name, heartbeat.now)
            own: list[Service] = [self._care, self._devices, self._shaping.demand, orders]
            for service in (*own, *self._make_services(identity)):
                service.start()
                stack.callback(service.stop)
            self._serve(heartbeat)
            if not self._left:
                self._end_attempts()
        event("node.stopped", node=identity.name)
        return 0

    def request_stop(self) -> None:
        """Drain; asked again: have jobs handed back; a third time: kill. From any thread."""
        self._bell.ring()

    def request_leave(self) -> None:
        """Stop, and leave the jobs in progress running for the next agent. From any thread."""
        self._bell.leave()

    def wait_ready(self, timeout: float) -> bool:
        """Whether every slot took jobs within ``timeout`` seconds. From another thread."""
        return self._ready.wait(timeout)

    # --- start

    def _take_over(self) -> None:
        """Adopt what an earlier agent left, and clear up what nobody looks after."""
        now = time.monotonic()
        configured = {slot.name for slot in self._slots}
        retired = [
            Slot(name=name) for name in slot_records.recorded(self._paths) if name not in configured
        ]
        adopted = []
        for slot in (*self._slots, *retired):
            worker = self._worker(slot)
            since = slot_records.started(self._paths, slot.name)
            if worker.adopt(now):
                adopted.append(since)
            if slot.name not in configured:
                worker.drain()
            self._workers.append(worker)
        self._leftovers.settle(self._busy())
        self._leftovers.clear_work(min(adopted) if adopted else None)
        self._leftovers.clear_temp(self._busy())
        self._tidy_at = now + _TIDY_EVERY

    def _worker(self, slot: Slot) -> SlotWorker:
        return SlotWorker(
            slot,
            paths=self._paths,
            launch=self._launch,
            nursery=self._nursery,
            before_start=lambda slot: self._leftovers.settle_slot(slot.name),
        )

    # --- the loop

    def _serve(self, heartbeat: Heartbeat) -> None:
        while True:
            now = time.monotonic()
            self._obey(now)
            self._reload()
            self._follow_engine()
            self._heed(now)
            self._shape(now)
            for worker in self._workers:
                worker.step(now)
            if now >= self._tidy_at:
                self._leftovers.settle(self._busy())
                self._ending.say(time.time())
                self._tidy_at = now + _TIDY_EVERY
            self._tell(heartbeat)
            stopped = all(worker.state is WorkerState.STOPPED for worker in self._workers)
            if self._obeyed and stopped:
                return
            self._wait(now)

    def _obey(self, now: float) -> None:
        """Do what was asked for by `request_stop`, and what time asks for."""
        overdue = self._obeyed == 1 and self._drain_until is not None and now >= self._drain_until
        wanted = max(self._bell.rings, 2 if overdue else 0)
        if self._bell.leaves and not self._left and self._obeyed < 2:
            self._leave_jobs(now)
        if wanted >= 1 and self._obeyed < 1:
            event("node.draining", bound=self._drain)
            self._say("node stopping: jobs in progress end first (again: they are handed back)")
            systemd.notify("STOPPING=1")
            self._state = NodeState.DRAINING
            self._drain_until = None if self._drain is None else now + self._drain
            for worker in self._workers:
                worker.drain()
        if wanted >= 2 and self._obeyed < 2:
            event("node.quitting", level=logging.WARNING)
            self._say("node stopping now: jobs in progress are handed back (again: killed)")
            for worker in self._workers:
                worker.quit(now)
        if wanted >= 3 and self._obeyed < 3:
            for worker in self._workers:
                worker.kill()
        self._obeyed = max(self._obeyed, wanted)

    def _leave_jobs(self, now: float) -> None:
        """Stop, and leave the jobs in progress to the next start of this node."""
        away = self._config.timeouts.away
        self._left = True
        self._obeyed = 2
        self._state = NodeState.DRAINING
        event("node.leaving", away=away)
        self._say(f"node stopping: jobs in progress go on, and wait {away:g} s for its next start")
        systemd.notify("STOPPING=1")
        for worker in self._workers:
            worker.leave(now, away)

    def _reload(self) -> None:
        """Take up a configuration that was changed: slots end their job first, and read the queues
        that are theirs by it."""
        asked, self._reloads = self._bell.reloads - self._reloads, self._bell.reloads
        if not asked or self._obeyed or self._reread is None:
            return
        try:
            config = reloaded(self._config, self._reread)
        except ConfigError as error:
            event("node.reload_refused", level=logging.ERROR, error=str(error))
            self._say(f"the configuration was not taken up, and the old one holds: {error}")
            return
        self._config = config
        self._care.configure(config)
        self._launch = replace(self._launch, digest=digest_of(config, self._settings))
        for worker in self._workers:
            worker.renew(self._launch)
        event("node.reloaded", mode=str(config.execution.mode))
        self._say(f"configuration read again: mode {config.execution.mode}")

    def _follow_engine(self) -> None:
        """Slots read what the node's engine is good for: where that has changed, they begin anew.

        An engine that is away for a while changes nothing: its jobs are handed back meanwhile.
        """
        state = self._care.facts.state
        offers = (state.name if state.available else "", state.usable)
        if not state.name or self._obeyed or offers == self._offered:
            return
        before = self._offered
        if before is not None and not state.available:
            return
        self._offered = offers
        if before is not None and (before[1] or state.usable):
            event("node.engine_changed", engine=state.name, usable=state.usable, why=state.reason)
            for worker in self._workers:
                worker.refresh()

    def _heed(self, now: float) -> None:
        """Do what is asked of the node from elsewhere, but for a stop."""
        if self._obeyed or not self._cordoning.step(now, self._workers[: len(self._slots)]):
            return
        cordoned = self._cordoning.cordoned
        self._state = NodeState.CORDONED if cordoned else NodeState.STARTING
        self._say("node cordoned: it takes no new job" if cordoned else "node takes jobs again")
        if cordoned:
            systemd.notify("READY=1")

    def _shape(self, now: float) -> None:
        """Slots stand aside whose devices are not well; others are joined for wide jobs."""
        stopping = bool(self._obeyed)
        serves = not stopping and not self._cordoning.cordoned
        shaped = self._shaping.step(now, self._workers, serves=serves, stopping=stopping)
        self._workers = [*shaped]

    def _has_job(self, slot: str) -> bool:
        return leases.held(self._paths.leases / (slot + leases.SUFFIX))

    def _tell(self, heartbeat: Heartbeat) -> None:
        """Say what has changed: to people, to systemd, to the cluster."""
        for worker in self._workers:
            name = worker.slot.name
            if worker.state is WorkerState.READY and self._said.get(name) != worker.pid:
                self._said[name] = worker.pid
                self._say(f"{name} ready (pid {worker.pid})")
        configured = self._workers[: len(self._slots)]
        if self._state is NodeState.STARTING and all(
            worker.state is WorkerState.READY or self._shaping.stands_aside(worker)
            for worker in configured
        ):
            self._state = NodeState.READY
            self._ready.set()
            self._say("node ready")
            event("node.ready")
            systemd.notify("READY=1")
        entries = self_description.entries(self._workers, self._slots)
        offer = self_description.offer(self._workers, self._paths)
        told = (entries, offer, self._state)
        if told != self._told:
            self._shown, self._told = entries, told
            heartbeat.now()

    def _wait(self, now: float) -> None:
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        wakes = [self._tidy_at]
        if self._obeyed == 1 and self._drain_until is not None:
            wakes.append(self._drain_until)
        if (at := self._cordoning.wake_at()) is not None:
            wakes.append(at)
        if self._devices.snapshot.devices:
            wakes.append(now + _LOOK_AT_DEVICES_EVERY)
        for worker in self._workers:
            if worker.process is not None:
                poll.register(worker.process, select.POLLIN)
            if (at := worker.wake_at(now)) is not None:
                wakes.append(at)
        poll.poll(max(0.0, min(wakes) - time.monotonic()) * 1000)
        self._bell.clear()

    # --- end

    def _end_attempts(self) -> None:
        """No slot worker is left, so nobody looks after attempts any more: none may live on."""
        left = self._leftovers.end_all(self._config.timeouts.stop_grace)
        if left:
            names = [path.name for path in left]
            event("node.attempts_left", level=logging.ERROR, attempts=names)
        self._leftovers.clear_work(None)
        self._leftovers.clear_temp(())

    def _let_go(self) -> None:
        """Leave to the next agent what still runs; after a clean stop nothing does."""
        for worker in self._workers:
            worker.abandon()

    # --- what it is

    def _busy(self) -> frozenset[str]:
        return frozenset(w.slot.name for w in self._workers if w.pid is not None)

    def _record(self, identity: NodeIdentity) -> NodeRecord:
        return self_description.record(
            identity,
            self._config,
            state=self._state,
            slots=self._shown,
            offer=self_description.offer(self._workers, self._paths),  # asked again at each beat
            facts=self._care.facts,
            devices=self._devices,
        )


def _leave(registry: NodeRegistry) -> None:
    try:
        registry.leave()
    except redis.RedisError as error:  # the entry goes by itself
        event("node.leave_failed", level=logging.WARNING, error=str(error))


def _say(line: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # whoever read it is gone: no reason to end
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
