"""Attempts in containers of one engine, each under a keeper (Linux)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from tasks.errors import KeeperError, RuntimeUnavailable
from worker.keeper import client, containers, lock
from worker.keeper.client import KeeperLink
from worker.keeper.zygote import Zygote
from worker.plan import LaunchPlan
from worker.runtimes.base import Capabilities, Handle
from worker.runtimes.beginning import check_place
from worker.runtimes.engine import gpus, seen
from worker.runtimes.engine import report as reports
from worker.runtimes.engine.beside import end_left
from worker.runtimes.engine.client import EngineClient
from worker.runtimes.engine.dialect import Dialect
from worker.runtimes.engine.errors import DevicesUnavailable, EngineError, SandboxUnavailable
from worker.runtimes.engine.handle import EngineHandle
from worker.runtimes.engine.images import ImageStore
from worker.runtimes.engine.logs import KeptLogs
from worker.runtimes.engine.making import DockerMaking, Making
from worker.runtimes.engine.manager import ContainerManager, Image
from worker.runtimes.engine.marks import ImageMarks
from worker.runtimes.engine.pulls import Puller
from worker.runtimes.engine.report import SandboxReport
from worker.runtimes.engine.settings import EngineSettings, container_name
from worker.runtimes.engine.starting import HELLO_WITHIN, Started, Starting
from worker.runtimes.engine.sweep import sweep
from worker.runtimes.native import ATTEMPTS, NativeHandle, unavailable
from worker.sandbox.engine_report import EngineFacts
from worker.sandbox.standins import Shortfall


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
        self.starting = Starting(self.manager, self.making, settings, self._zygote)

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
            started = self.starting.start(plan, image, deadline)
            return self._attested(started, plan, image)
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
                link = KeeperLink(client.connect(directory), record.attempt, HELLO_WITHIN)
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

    # --- inside

    def _check(self, plan: LaunchPlan) -> None:
        reason = unavailable()
        if reason:
            raise RuntimeUnavailable(reason)
        check_place(plan, self._attempts)
        if not plan.argv or not plan.image:
            lacks = "program" if not plan.argv else "image"
            raise RuntimeUnavailable(f"{plan.attempt}: the plan names no {lacks}")
        if plan.gvisor and not self._settings.profile.gvisor:
            raise SandboxUnavailable("sandbox: gvisor, and here jobs have the host's kernel")

    def _attested(self, started: Started, plan: LaunchPlan, image: Image) -> Handle:
        """The handle of an attempt whose sandbox the host shows; else nothing of it is left."""
        link, profile, stand = started.link, started.profile, started.stand
        try:
            # gVisor's bundle has the numbers from inside
            here = profile if profile.gvisor else replace(profile, user=self.starting.owner())
            from_host = seen.from_host(link, started.asked, here, stand)
            SandboxReport(
                engine=f"{self._dialect.name} {self._client.version().engine}",
                container=container_name(plan.attempt, plan.state),
                image=plan.image or "",
                image_id=image.id,
                digest=image.digests[0] if image.digests else "",
                loosened=profile.loosened,
                stood_in=stand.held,
                unenforced=stand.accepted,
                from_engine=started.from_engine,
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

    def _handle(self, link: KeeperLink, state: Path, scratch: Path) -> EngineHandle:
        return EngineHandle(
            NativeHandle(link, state=state, scratch=scratch),
            state=state,
            manager=self.manager,
            logs=self.logs,
            report=reports.read(state),
        )
