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
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import redis

from tasks.record import Records
from tasks.settings import Settings
from worker.config import NodeConfig, ensure_supported_platform
from worker.devices import leases
from worker.engines import Engines
from worker.giving_back import GivingBack
from worker.node import retired, self_description, slot_records
from worker.node.adoption import Leftovers
from worker.node.cordoned import Cordoning
from worker.node.device_care import DeviceCare
from worker.node.engine_care import EngineCare
from worker.node.engine_changes import EngineChanges
from worker.node.gpu_slots import gpu_slots
from worker.node.identity import AgentLock, NodeIdentity, identify, require_pidfd
from worker.node.log import event
from worker.node.node_orders import NodeOrders
from worker.node.nursery import Nursery
from worker.node.paths import NodePaths
from worker.node.redis_advice import advice
from worker.node.registry import Heartbeat, NodeRecord, NodeRegistry, usable_cores
from worker.node.reload import Reloading
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
from worker.node.standing import Standing
from worker.node.stop_bell import StopBell
from worker.node.stopping import Stopping, hand_back_s
from worker.trust.keyring import Keyring
from worker.trust.node_key import Ending, enrolment_of, node_signer
from worker.trust.secrets import Secrets

_TIDY_EVERY: Final = 30.0
_LOOK_AGAIN_S: Final = 1.0
"""After which devices, and what retired slots run, are looked at again."""
_GIVE_BACK_WITHIN: Final = 10.0
"""Seconds that a stopping node tries to reach Redis with the jobs of attempts that it has ended."""


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
        kill_after: float | None = None,
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
        ``kill_after``: seconds that a slot worker has to hand its job back; None: what the
            configuration makes of that.
        ``services``: made once the node has its identity (default: `cluster_services`).
        ``reread``: reads the configuration again; None: a SIGHUP changes nothing.
        ``say``: takes the lines for people (default: stdout).
        """
        self._config = config
        self._settings = settings
        self._bell = StopBell()
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
            changed=self._bell.nudge,
        )
        self._giving_back = GivingBack(
            Records(settings.connect(), settings.keys, terminal_ttl_s=settings.result_ttl_s)
        )
        died = f"its keeper on {config.node.name} died"
        self._leftovers = Leftovers(
            self._paths,
            self._engines.recovering,
            lambda note: self._giving_back.put(note, died),
        )
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
            kill_after=hand_back_s(config) if kill_after is None else kill_after,
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
        """Those of the configured slots first, in their order."""
        self._standing = Standing(self._slots, self._paths, say or _say)
        self._stopping = Stopping(self._bell, self._standing, drain=drain)
        self._reloading = Reloading(self._bell, reread, self._standing.say)
        self._engine_changes = EngineChanges()
        self._cordoning = Cordoning(self._bell.nudge)
        self._ending = Ending(None)
        self._tidy_at = 0.0

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
            stack.callback(self._giving_back.close, _GIVE_BACK_WITHIN)
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
            if not self._stopping.leaves:
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
        return self._standing.ready.wait(timeout)

    # --- start

    def _take_over(self) -> None:
        """Adopt what an earlier agent left, and clear up what nobody looks after."""
        now = time.monotonic()
        configured = {slot.name for slot in self._slots}
        more = retired.find(self._paths, configured, self._config, self._devices.snapshot)
        adopted = []
        for slot in (*self._slots, *more):
            worker = self._worker(slot)
            since = slot_records.started(self._paths, slot.name)
            if worker.adopt(now):
                adopted.append(since)
            self._workers.append(worker)
        retired.step(now, self._paths, self._workers)
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
            self._stopping.step(now, self._workers, away=self._config.timeouts.away)
            if not self._stopping.begun:
                if (config := self._reloading.step(self._config)) is not None:
                    self._take_up(config)
                self._follow_engine()
                self._heed(now)
            elif self._stopping.waits:
                self._cordoning.keep_time(now, self._workers)
            self._shape(now)
            for worker in self._workers:
                worker.step(now)
            if self._stopping.waits:
                hands_back = self._cordoning.hands_back
                retired.step(now, self._paths, self._workers, hands_back=hands_back)
            if now >= self._tidy_at:
                self._leftovers.settle(self._busy())
                self._ending.say(time.time())
                self._tidy_at = now + _TIDY_EVERY
            if self._standing.step(self._workers, self._shaping.stands_aside):
                heartbeat.now()
            stopped = all(worker.state is WorkerState.STOPPED for worker in self._workers)
            if self._stopping.begun and stopped:
                return
            self._wait(now)

    def _take_up(self, config: NodeConfig) -> None:
        """Slots end their job first, and then read the queues that are theirs by it."""
        self._config = config
        self._care.configure(config)
        self._launch = replace(
            self._launch,
            digest=digest_of(config, self._settings),
            # a worker that was started before has the time that it knows of
            kill_after=max(self._launch.kill_after, hand_back_s(config)),
        )
        for worker in self._workers:
            worker.renew(self._launch)
        event("node.reloaded", mode=str(config.execution.mode))
        self._standing.say(f"configuration read again: mode {config.execution.mode}")

    def _follow_engine(self) -> None:
        """Slots read what the engine is good for: where that has changed, they begin anew."""
        state = self._care.facts.state
        if self._engine_changes.step(state):
            event("node.engine_changed", engine=state.name, usable=state.usable, why=state.reason)
            for worker in self._workers:
                worker.refresh()

    def _heed(self, now: float) -> None:
        """Do what is asked of the node from elsewhere, but for a stop."""
        if self._cordoning.step(now, self._workers[: len(self._slots)], self._workers):
            self._standing.cordoned(self._cordoning.cordoned)

    def _shape(self, now: float) -> None:
        """Slots stand aside whose devices are not well; others are joined for wide jobs."""
        stopping = self._stopping.begun
        serves = not stopping and not self._cordoning.cordoned
        shaped = self._shaping.step(now, self._workers, serves=serves, stopping=stopping)
        self._workers = [*shaped]

    def _has_job(self, slot: str) -> bool:
        return leases.held(self._paths.leases / (slot + leases.SUFFIX))

    def _wait(self, now: float) -> None:
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        wakes = [self._tidy_at, self._stopping.wake_at()]
        if self._stopping.waits:
            wakes.append(self._cordoning.wake_at())
        if self._devices.snapshot.devices or retired.left(self._workers):
            wakes.append(now + _LOOK_AGAIN_S)
        for worker in self._workers:
            if worker.process is not None:
                poll.register(worker.process, select.POLLIN)
            wakes.append(worker.wake_at(now))
        soonest = min(at for at in wakes if at is not None)
        poll.poll(max(0.0, soonest - time.monotonic()) * 1000)
        self._bell.clear()

    # --- end

    def _end_attempts(self) -> None:
        """No slot worker is left, so nobody looks after attempts any more: none may live on. Those
        that are here still had no time to be handed back, or nobody to do it."""
        ended, left = self._leftovers.end_all(self._config.timeouts.stop_grace)
        for note in ended:
            event("attempt.ended", attempt=f"{note.lease.job_id}~{note.lease.fence}")
            self._giving_back.put(note, f"node {self._config.node.name} stopped", counts=False)
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
            state=self._standing.state,
            slots=self._standing.slots,
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
