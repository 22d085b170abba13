"""From a plan to a container that runs under a keeper."""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from tasks.errors import RuntimeUnavailable
from worker.devices.device_nodes import NodeUnusable, groups_for
from worker.keeper import containers, protocol
from worker.keeper.client import KeeperLink
from worker.keeper.zygote import Zygote
from worker.plan import LaunchPlan
from worker.runtimes.beginning import beginning
from worker.runtimes.engine import seen
from worker.runtimes.engine.errors import Conflict, DevicesUnavailable, SandboxUnavailable
from worker.runtimes.engine.making import Making
from worker.runtimes.engine.manager import ContainerManager, Image
from worker.runtimes.engine.ownership import give_tree
from worker.runtimes.engine.settings import EngineSettings, container_name, log_config
from worker.sandbox.options import container_config
from worker.sandbox.profile import Profile
from worker.sandbox.readback import Finding
from worker.sandbox.standins import StandIns, refusal, stand_ins, with_rlimits

HELLO_WITHIN: Final = 120.0
"""Seconds: a busy engine takes long to start a container, and this is no reason to give it up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """A container that runs under a keeper, and that the host has not looked at yet."""

    link: KeeperLink
    asked: Mapping[str, Any]
    """The create call that it was made by."""
    profile: Profile
    """The attempt's."""
    stand: StandIns
    from_engine: tuple[Finding, ...]
    """What the engine says that it made: all of it as asked for."""


class Starting:
    """Starts the containers of one engine. Thread-safe."""

    def __init__(
        self, manager: ContainerManager, making: Making, settings: EngineSettings, zygote: Zygote
    ) -> None:
        self._manager = manager
        self._making = making
        self._settings = settings
        self._zygote = zygote
        self._dialect = manager.client.dialect

    def start(self, plan: LaunchPlan, image: Image, deadline: float) -> Started:
        """A keeper with its container started; or an error, and nothing is left of this try but
        what the engine has of it.

        Raises:
            SandboxUnavailable: a limit would not be kept, or the engine did not take an option.
            DevicesUnavailable: this node's user may not use the grant's devices.
            OSError, KeeperError, RuntimeUnavailable: it was not started.
        """
        stand = self._stand_ins(plan)
        owner = self.owner()
        with beginning(plan, (plan.state, plan.checkpoints, plan.output), owner) as guard:
            self._give(plan, owner)
            return self._launch(plan, image, stand, guard, deadline)

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

    def owner(self) -> tuple[int, int]:
        """Whom the job's user is on the host."""
        (uid, gid), (first_uid, first_gid) = self._settings.profile.user, self._making.first_ids()
        return first_uid + uid, first_gid + gid

    # --- the steps

    def _stand_ins(self, plan: LaunchPlan) -> StandIns:
        """What is done about limits that the engine does not keep."""
        short = self._making.shortfall()
        stand = stand_ins(
            plan.limits, short, self._settings.accept_unenforced, gpu=bool(plan.grant.devices)
        )
        why = refusal(stand, short, self._dialect.name)
        if why:
            raise SandboxUnavailable(why)
        return stand

    @staticmethod
    def _give(plan: LaunchPlan, owner: tuple[int, int]) -> None:
        """The directories that the job writes to belong to its user; nobody else may look."""
        for directory in (plan.checkpoints, plan.output):
            opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                os.fchmod(opened, 0o700)
                if os.geteuid() == 0:
                    os.fchown(opened, *owner)
            finally:
                os.close(opened)
        if os.geteuid() == 0:
            give_tree(plan.checkpoints, *owner)
        for source in (plan.data, *(one.source for one in (*plan.mounts, *plan.grant.mounts))):
            if source is not None and (source.is_symlink() or not source.exists()):
                raise RuntimeUnavailable(f"{source} cannot be mounted: it is a link, or not there")

    def _launch(
        self, plan: LaunchPlan, image: Image, stand: StandIns, guard: int, deadline: float
    ) -> Started:
        api = self._manager.client.version().api
        name = container_name(plan.attempt, plan.state)
        socket = str(self._settings.socket)
        # what it wrote stays in the engine with it, secrets unmasked
        keep = not self._settings.remove_containers and plan.secrets is None
        containers.write(plan.state, containers.Noted(socket=socket, api=api, name=name, keep=keep))
        asked = with_rlimits(self._making.asked(self.asked(plan, image)), stand)
        container = self._create(name, asked)
        from_engine = self._making.read_back(container, asked)
        seen.require(from_engine, "the engine did not take")
        short = self._making.shortfall()
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
        return Started(
            link=KeeperLink(connection, plan.attempt, HELLO_WITHIN),
            asked=asked,
            profile=self._profile(plan),
            stand=stand,
            from_engine=tuple(from_engine),
        )

    def _create(self, name: str, asked: dict[str, Any]) -> str:
        """Who has the attempt's lock owns its name: what a dead one left is in the way."""
        try:
            return self._making.create(name, asked)
        except Conflict:
            self._manager.remove(name)
            return self._making.create(name, asked)

    def _profile(self, plan: LaunchPlan) -> Profile:
        """That of an attempt: the node's, and the network that it may have."""
        profile = self._settings.profile
        return replace(profile, no_network=False, network=plan.network) if plan.network else profile

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
