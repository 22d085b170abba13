"""Attempts in containers of one engine, each under a keeper (Linux)."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from tasks.errors import KeeperError, RuntimeUnavailable
from worker.devices.device_nodes import NodeUnusable, groups_for
from worker.keeper import client, containers, lock, protocol, secret_files
from worker.keeper.client import KeeperLink
from worker.keeper.settle import Settlement, remove_tree, settle
from worker.keeper.zygote import Zygote
from worker.plan import LaunchPlan
from worker.runtimes.base import Capabilities, Handle
from worker.runtimes.engine import gpus
from worker.runtimes.engine import report as reports
from worker.runtimes.engine.beside import end_left
from worker.runtimes.engine.client import EngineClient
from worker.runtimes.engine.dialect import Dialect
from worker.runtimes.engine.errors import (
    Conflict,
    DevicesUnavailable,
    EngineError,
    SandboxUnavailable,
)
from worker.runtimes.engine.handle import EngineHandle
from worker.runtimes.engine.images import ImageStore
from worker.runtimes.engine.logs import KeptLogs
from worker.runtimes.engine.making import DockerMaking, Making
from worker.runtimes.engine.manager import ContainerManager, Image
from worker.runtimes.engine.marks import ImageMarks
from worker.runtimes.engine.ownership import give_tree
from worker.runtimes.engine.pulls import Puller
from worker.runtimes.engine.report import SandboxReport
from worker.runtimes.engine.settings import EngineSettings, container_name, log_config
from worker.runtimes.engine.sweep import sweep
from worker.runtimes.native import ATTEMPTS, NativeHandle, unavailable
from worker.sandbox import evidence, gvisor
from worker.sandbox.engine_report import EngineFacts
from worker.sandbox.options import container_config
from worker.sandbox.profile import Profile
from worker.sandbox.readback import Finding, differences
from worker.sandbox.standins import (
    Shortfall,
    StandIns,
    judged,
    refusal,
    stand_ins,
    with_rlimits,
)

_HELLO_WITHIN: Final = 120.0
"""A busy engine takes long to start a container, and this is no reason to give it up."""
_DYING: Final = 0.3
_AGAIN: Final = 0.01


class EngineRuntime:
    """Starts attempts under keepers and finds them again. Thread-safe."""

    def __init__(
        self,
        dialect: Dialect,
        settings: EngineSettings,
        *,
        making: Callable[[ContainerManager, Path], Making] = DockerMaking,
        zygote: Zygote | None = None,
    ) -> None:
        """``making``: of the engine's verbs and a directory for what the engine reads. A ``zygote``
        that is given stays the caller's to close. Nothing is asked of the engine yet."""
        self._dialect = dialect
        self._settings = settings
        self._attempts = settings.state_root / ATTEMPTS
        self._client = EngineClient(settings.socket, dialect)
        self.manager = ContainerManager(self._client)
        self.making = making(self.manager, settings.state_root / "engine")
        puller = Puller(
            self._client,
            settings.state_root / "pulls",
            credentials=settings.credentials,
            silence=settings.pull_silence,
        )
        marks = ImageMarks(settings.state_root / "images")
        self.images = ImageStore(self.manager, puller, settings.rules, marks)
        self.logs = KeptLogs(settings.state_root / "job-logs", settings.keep_logs_hours)
        self._zygote = zygote if zygote is not None else Zygote()
        self._owns_zygote = zygote is None

    @property
    def loosened(self) -> tuple[str, ...]:
        """Items of the sandbox that the operator has loosened."""
        return self._settings.profile.loosened

    @property
    def settings(self) -> EngineSettings:
        return self._settings

    def another(self, settings: EngineSettings, zygote: Zygote) -> EngineRuntime:
        """A runtime of the same engine with other settings."""
        making = type(self.making)
        return EngineRuntime(self._dialect, settings, making=making, zygote=zygote)

    def facts(self) -> EngineFacts:
        """What the engine is, without a probe. Raises EngineError."""
        found = self.making.facts(self._client.version(), self.loosened)
        profile = self._settings.profile
        return replace(found, runtime=profile.runtime, gvisor=True) if profile.gvisor else found

    def identity(self) -> str:
        """Another text is another engine, or another version of it. Raises EngineMissing."""
        return f"{self._settings.socket} {self._client.version().server}"

    def version(self) -> str:
        """The engine's. Raises EngineMissing."""
        return self._client.version().engine

    @property
    def tells_devices(self) -> bool:
        """Whether the engine says which GPUs it gave to a container."""
        return self._dialect.tells_devices

    def device_ways(self, devices: Iterable[str]) -> tuple[gpus.Via, ...]:
        """How it may be asked for GPUs, the best way first. Raises EngineError."""
        if not self._dialect.tells_devices:
            return (gpus.Via.CDI,)
        return gpus.ways(self.manager.info(), devices)

    def capabilities(self) -> Capabilities:
        reason = unavailable() or self.manager.available().reason
        short = Shortfall()
        try:
            if not reason:
                reason, short = self.making.unusable(), self.making.shortfall()
        except EngineError as error:
            reason = str(error)
        loose = {limit for limit in short.ignored if not short.stands_in(limit)}
        return Capabilities(
            name=self._dialect.name,
            available=not reason,
            reason=reason,
            pause=short.pause,
            exec=True,
            enforces=frozenset({"memory", "cpu", "pids", "shm", "output"} - loose),
        )

    def prepare(self, image: str | None, progress: Callable[[str], None]) -> None:
        """Pull the image, if the policy says so; warm the zygote.

        Raises:
            ImageForbidden, ImageUnavailable: see there.
        """
        self._zygote.start()
        if image is not None:
            self.images.ensure(image, progress)

    def start(self, plan: LaunchPlan, deadline: float) -> Handle:
        self._check(plan)
        try:
            images = self.images.allowing(plan.also_images)
            image = images.present(plan.image or "", plan.image_id)
            stand = self._stand_ins(plan)
            link, asked, from_engine = self._begin(plan, image, stand, deadline)
            return self._attested(link, plan, image, stand, asked, from_engine)
        except (OSError, KeeperError, RuntimeUnavailable) as error:
            if not plan.state.exists():  # it was ours: refused containers are not kept to look at
                with contextlib.suppress(RuntimeUnavailable):
                    self.manager.remove(container_name(plan.attempt, plan.state))
            text = f"{plan.attempt} was not started: {error}"
            if plan.grant.devices and gpus.refused(text):
                raise DevicesUnavailable(text) from error
            match error:
                case RuntimeUnavailable():
                    raise type(error)(text) from error
                case KeeperError():  # the engine was there, and did not start it
                    raise EngineError(text) from error
                case _:
                    raise RuntimeUnavailable(text) from error

    def recover(self, slot: str | None = None) -> list[Handle]:
        """Attaches to the attempts whose keeper lives; dead ones are for `keeper.settle`."""
        found: list[Handle] = []
        if unavailable() or not self._attempts.is_dir():
            return found
        for directory in sorted(self._attempts.iterdir()):
            noted = containers.read(directory)
            if noted is None or noted.socket != str(self._settings.socket):
                continue
            record = lock.read(directory) if lock.alive(directory) else None
            if record is None or slot not in (None, record.slot):
                continue
            # It may be ending this very moment: then it is not there to be found.
            with contextlib.suppress(OSError, KeeperError):
                link = KeeperLink(client.connect(directory), record.attempt, _HELLO_WITHIN)
                found.append(self._handle(link, directory, record.scratch))
                with contextlib.suppress(EngineError):  # they end with the container at the latest
                    end_left(self.manager.client, noted.name)
        return found

    def sweep(self, now: float | None = None) -> list[str]:
        """Remove what no attempt has any more: containers of this node whose attempt's directory is
        gone, stopped ones that are past ``keep_logs_hours``, those of probes that nobody looks
        after, and old logs. The containers' names.

        A container of another node is never touched, nor one that was made just now.
        """
        now = time.time() if now is None else now
        removed = sweep(self.manager, self._settings, now)
        self.logs.sweep(now)
        return removed

    def close(self) -> None:
        self._client.close()
        if self._owns_zygote:
            self._zygote.close()

    # --- the steps of a start

    def _check(self, plan: LaunchPlan) -> None:
        reason = unavailable()
        if reason:
            raise RuntimeUnavailable(reason)
        if plan.state.parent != self._attempts:
            raise RuntimeUnavailable(
                f"{plan.attempt}: the plan's state is {plan.state}, which recover() would not "
                f"find: it must be a directory in {self._attempts}"
            )
        if not plan.argv or not plan.image:
            lacks = "program" if not plan.argv else "image"
            raise RuntimeUnavailable(f"{plan.attempt}: the plan names no {lacks}")
        if plan.gvisor and not self._settings.profile.gvisor:
            raise SandboxUnavailable("sandbox: gvisor, and here jobs have the host's kernel")

    def _stand_ins(self, plan: LaunchPlan) -> StandIns:
        """What is done about limits that the engine does not keep."""
        short = self.making.shortfall()
        stand = stand_ins(
            plan.limits, short, self._settings.accept_unenforced, gpu=bool(plan.grant.devices)
        )
        why = refusal(stand, short, self._dialect.name)
        if why:
            raise SandboxUnavailable(why)
        return stand

    @staticmethod
    def _guard(plan: LaunchPlan) -> int:
        guard = lock.take(plan.state)
        if guard is None:
            raise RuntimeUnavailable(f"another keeper looks after {plan.state}")
        return guard

    def _give(self, plan: LaunchPlan) -> None:
        """The directories that the job writes to belong to its user; nobody else may look."""
        uid, gid = self._owner()
        for directory in (plan.checkpoints, plan.output):
            opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                os.fchmod(opened, 0o700)
                if os.geteuid() == 0:
                    os.fchown(opened, uid, gid)
            finally:
                os.close(opened)
        if os.geteuid() == 0:
            give_tree(plan.checkpoints, uid, gid)
        for source in (plan.data, *(one.source for one in (*plan.mounts, *plan.grant.mounts))):
            if source is not None and (source.is_symlink() or not source.exists()):
                raise RuntimeUnavailable(f"{source} cannot be mounted: it is a link, or not there")

    def _begin(
        self, plan: LaunchPlan, image: Image, stand: StandIns, deadline: float
    ) -> tuple[KeeperLink, dict[str, Any], list[Finding]]:
        """A keeper with its container started; or an error, and nothing is left."""
        made: list[Path] = []
        guard = -1
        try:
            for directory in (plan.state, plan.checkpoints, plan.output):
                if not directory.is_dir():
                    directory.mkdir(mode=0o700, parents=True)
                    made.append(directory)
            guard = self._guard(plan)
            if plan.secrets is not None:
                user = self._owner()
                secret_files.write(plan.state, plan.secrets.place, plan.secrets.values, user)
            self._give(plan)
            started = self._launch(plan, image, stand, guard, deadline)
        except (OSError, KeeperError, RuntimeUnavailable):
            if guard >= 0:
                os.close(guard)
            # Unless a keeper came to life all the same, and ends by itself later.
            if guard < 0 or settle(plan.state).outcome is Settlement.SETTLED:
                for directory in made:
                    remove_tree(directory)
            raise
        os.close(guard)
        return started

    def _launch(
        self, plan: LaunchPlan, image: Image, stand: StandIns, guard: int, deadline: float
    ) -> tuple[KeeperLink, dict[str, Any], list[Finding]]:
        api = self._client.version().api
        name = container_name(plan.attempt, plan.state)
        socket = str(self._settings.socket)
        # what it wrote stays in the engine with it, secrets unmasked
        keep = not self._settings.remove_containers and plan.secrets is None
        containers.write(plan.state, containers.Noted(socket=socket, api=api, name=name, keep=keep))
        asked = with_rlimits(self.making.asked(self.asked(plan, image)), stand)
        container = self._create(name, asked)
        from_engine = self.making.read_back(container, asked)
        _refuse(from_engine, "the engine did not take")
        short = self.making.shortfall()
        told: protocol.Container = {
            "socket": socket,
            "api": api,
            "id": container,
            "memory_mb": plan.limits.memory_mb,
            "cpus": stand.cpus,
            "pauses": short.pause,
            "metered": not short.ignored,
        }
        spec = self._spec(plan, stand, deadline, told)
        connection = self._zygote.spawn(spec, guard, plan.grant.fds)
        return KeeperLink(connection, plan.attempt, _HELLO_WITHIN), asked, from_engine

    def _attested(
        self,
        link: KeeperLink,
        plan: LaunchPlan,
        image: Image,
        stand: StandIns,
        asked: dict[str, Any],
        from_engine: list[Finding],
    ) -> Handle:
        """The handle of an attempt whose sandbox the host shows; else nothing of it is left."""
        try:
            from_host = self._look(link, asked, self._profile(plan), stand)
            SandboxReport(
                engine=f"{self._dialect.name} {self._client.version().engine}",
                container=container_name(plan.attempt, plan.state),
                image=plan.image or "",
                image_id=image.id,
                digest=image.digests[0] if image.digests else "",
                loosened=self._profile(plan).loosened,
                stood_in=stand.held,
                unenforced=stand.accepted,
                from_engine=tuple(from_engine),
                from_host=tuple(from_host),
            ).write(plan.state)
        except BaseException:
            handle = self._handle(link, plan.state, plan.scratch)
            with contextlib.suppress(KeeperError):
                handle.fence()
            handle.remove()
            for directory in (plan.checkpoints, plan.output):
                with contextlib.suppress(OSError):
                    directory.rmdir()  # what an earlier attempt left there stays
            raise
        return self._handle(link, plan.state, plan.scratch)

    def asked(self, plan: LaunchPlan, image: Image) -> dict[str, Any]:
        """The body of the create call for ``plan``."""
        # an engine without the right to raise limits fails at a higher one than its own, which is
        # mostly what this process has too
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        asked = plan.limits.nofile
        try:
            groups = groups_for(plan.grant.nodes, self._settings.profile.user[0])
        except NodeUnusable as error:
            raise DevicesUnavailable(str(error)) from error
        nofile = asked if most == resource.RLIM_INFINITY else min(asked, most)
        return container_config(
            replace(plan, limits=replace(plan.limits, nofile=nofile)),
            self._profile(plan),
            image=image.id,
            volumes=image.volumes,
            labels=self._settings.labels(plan.attempt, plan.state),
            log=log_config(self._dialect),
            groups=groups,
        )

    def _create(self, name: str, asked: dict[str, Any]) -> str:
        """Who has the attempt's lock owns its name: what a dead one left is in the way."""
        try:
            return self.making.create(name, asked)
        except Conflict:
            self.manager.remove(name)
            return self.making.create(name, asked)

    def _owner(self) -> tuple[int, int]:
        """Whom the job's user is on the host."""
        (uid, gid), (first_uid, first_gid) = self._settings.profile.user, self.making.first_ids()
        return first_uid + uid, first_gid + gid

    def _profile(self, plan: LaunchPlan) -> Profile:
        """That of an attempt: the node's, and the network that it may have."""
        profile = self._settings.profile
        return replace(profile, no_network=False, network=plan.network) if plan.network else profile

    def _look(
        self, link: KeeperLink, asked: dict[str, Any], profile: Profile, stand: StandIns
    ) -> list[Finding]:
        """What the host shows; nothing of a container that has ended already.

        A process on its way out has let go of its mounts and is not dead yet: what looks wrong is
        looked at again, until it is dead or the time is over.
        """
        until = time.monotonic() + _DYING
        observe = gvisor.observe if profile.gvisor else evidence.observe
        if not profile.gvisor:  # whose bundle has the numbers from inside
            profile = replace(profile, user=self._owner())
        try:
            while link.job_pid:
                seen = observe(link.job_pid, asked, profile, cpus=stand.cpus)
                found = judged(seen, stand)
                if not list(differences(found)) or time.monotonic() > until:
                    _refuse(found, "the host does not show")
                    return found
                time.sleep(_AGAIN)
        except evidence.Gone:
            pass
        return []

    def _handle(self, link: KeeperLink, state: Path, scratch: Path) -> EngineHandle:
        return EngineHandle(
            NativeHandle(link, state=state, scratch=scratch),
            state=state,
            manager=self.manager,
            logs=self.logs,
            report=reports.read(state),
        )

    def _spec(
        self, plan: LaunchPlan, stand: StandIns, deadline: float, container: protocol.Container
    ) -> protocol.Spec:
        limits = plan.limits
        return {
            "job_id": plan.attempt.job_id,
            "fence": plan.attempt.fence,
            "slot": plan.grant.slot,
            "argv": list(plan.argv),
            "env": {},
            "state": str(plan.state.resolve()),
            "scratch": str(plan.scratch),
            "watched": [str(plan.output), str(plan.checkpoints)],
            # what the engine keeps is none of the watchdog's; it has the directories to watch
            "memory_mb": stand.watched_memory_mb,
            "limit_data": False,
            "cpu_cores": 0,
            "pids": stand.watched_pids,
            "nofile": 0,
            "output_mb": limits.output_mb,
            "deadline": deadline,
            "abandon_after": self._settings.abandon_after,
            "container": container,
        }


def _refuse(found: list[Finding], whose: str) -> None:
    """Raise if an item is not as it was asked for."""
    wrong = list(differences(found))
    if wrong:
        raise SandboxUnavailable(f"{whose} {'; '.join(map(str, wrong))}")
