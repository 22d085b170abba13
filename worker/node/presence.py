"""The node's entry where a slot is served without an agent: its worker writes it."""

from __future__ import annotations

import logging

import redis

from tasks.errors import NodeConflict
from tasks.settings import Settings
from worker.config import NodeConfig
from worker.node import slot_records
from worker.node.identity import NodeIdentity, agent_pid, identify
from worker.node.paths import NodePaths
from worker.node.registry import Heartbeat, NodeRecord, NodeRegistry, NodeState, Offer, SlotEntry
from worker.node.slots import kind_of

log = logging.getLogger(__name__)


class Presence:
    """Keeps the entry alive from `start` to `stop`, unless somebody else does."""

    def __init__(self, config: NodeConfig, settings: Settings, paths: NodePaths, slot: str) -> None:
        self._config = config
        self._settings = settings
        self._paths = paths
        self._slot = slot
        self._registry: NodeRegistry | None = None
        self._heartbeat: Heartbeat | None = None

    def start(self) -> None:
        """Register; without it the slot serves all the same, so nothing is raised."""
        if agent_pid(self._paths) is not None:
            return  # the agent's own
        identity = identify(self._config.node.name, self._paths)
        registry = NodeRegistry(self._settings.connect(), self._settings.keys, identity)
        try:
            registry.beat(self._record(identity))
        except NodeConflict as error:
            log.warning("node.unlisted error=%s", error)
            return
        except redis.RedisError as error:  # the heartbeat tries again
            log.warning("node.unlisted error=%s", error)
        self._registry = registry
        self._heartbeat = Heartbeat(registry, lambda: self._record(identity))
        self._heartbeat.start()

    def stop(self) -> None:
        """Safe to call twice, and without `start`."""
        if self._heartbeat is None or self._registry is None:
            return
        self._heartbeat.stop()
        try:
            self._registry.leave()
        except redis.RedisError as error:  # the entry goes by itself
            log.warning("node.leave_failed error=%s", error)
        self._heartbeat = self._registry = None

    def _record(self, identity: NodeIdentity) -> NodeRecord:
        node, kind = self._config.node, kind_of(self._slot)
        read = slot_records.queues(self._paths, self._slot)
        return NodeRecord(
            name=identity.name,
            node_id=identity.node_id,
            instance=identity.instance,
            state=NodeState.READY,
            started=identity.started,
            hostname=identity.hostname,
            pid=identity.pid,
            slots=(SlotEntry(name=self._slot, kind=kind, state="ready"),),
            pool=node.pool,
            labels=node.labels,
            mode=self._config.execution.mode,
            offer=Offer(
                queues=tuple(sorted(one for one in read if not one.startswith("slot."))),
                slots={kind: (self._slot,)},
            ),
        )
