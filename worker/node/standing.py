"""How a node stands, and that people, systemd and the cluster know it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from worker.node import self_description, systemd
from worker.node.log import event
from worker.node.paths import NodePaths
from worker.node.registry import NodeState, SlotEntry
from worker.node.slot_worker import SlotWorker, WorkerState
from worker.node.slots import Slot


class Standing:
    """Kept on the agent's thread; `state` and `slots` may be read from any."""

    def __init__(
        self, configured: Sequence[Slot], paths: NodePaths, say: Callable[[str], None]
    ) -> None:
        """``say``: takes the lines for people."""
        self._configured = configured
        self._paths = paths
        self._said: dict[str, int | None] = {}
        self._told: tuple[object, ...] = ()
        self.say = say
        self.state = NodeState.STARTING
        self.slots: tuple[SlotEntry, ...] = ()
        """As the cluster is told of them."""
        self.ready = threading.Event()
        """Every slot has taken jobs once."""

    def stops(self, line: str) -> None:
        """No new job from now on, for good; ``line`` tells people of it."""
        self.state = NodeState.DRAINING
        self.say(line)
        systemd.notify("STOPPING=1")

    def cordoned(self, cordoned: bool) -> None:
        """Whether the node takes no new job, for a while."""
        self.state = NodeState.CORDONED if cordoned else NodeState.STARTING
        self.say("node cordoned: it takes no new job" if cordoned else "node takes jobs again")
        if cordoned:
            systemd.notify("READY=1")

    def step(
        self, workers: Sequence[SlotWorker], stands_aside: Callable[[SlotWorker], bool]
    ) -> bool:
        """Say what has changed; whether the cluster is to be told of it too.

        ``workers``: those of the configured slots first. ``stands_aside``: whether it is right
        that one of them takes no jobs.
        """
        for worker in workers:
            name = worker.slot.name
            if worker.state is WorkerState.READY and self._said.get(name) != worker.pid:
                self._said[name] = worker.pid
                self.say(f"{name} ready (pid {worker.pid})")
        if self.state is NodeState.STARTING and all(
            worker.state is WorkerState.READY or stands_aside(worker)
            for worker in workers[: len(self._configured)]
        ):
            self.state = NodeState.READY
            self.ready.set()
            self.say("node ready")
            event("node.ready")
            systemd.notify("READY=1")
        slots = self_description.entries(workers, self._configured)
        told = (slots, self_description.offer(workers, self._paths), self.state)
        changed = told != self._told
        self.slots, self._told = slots, told
        return changed
