"""How many jobs wait for several devices, in the classes that this node's slots could serve."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Final

import redis

from tasks.choices import Device as Kind
from tasks.routing import QueueClass
from tasks.settings import Settings
from worker.devices.planner import Demand
from worker.node.rounds import Rounds

log = logging.getLogger(__name__)

_LOOK_EVERY_S: Final = 2.0


def wide_classes(queues: Iterable[str], widths: Iterable[int]) -> dict[str, int]:
    """Queues that narrow slots with these queues would read if they were wide: name to width."""
    found: dict[str, int] = {}
    for name in queues:
        try:
            one = QueueClass.from_name(name)
        except ValueError:  # a direct queue
            continue
        if one.width == 1:
            found |= {replace(one, width=width).name: width for width in widths}
    return found


class WideDemand:
    """A thread that asks Redis now and then."""

    def __init__(self, settings: Settings, queues: Callable[[], Iterable[str]], most: int) -> None:
        """``queues``: what the node's narrow slots read. ``most``: how many devices it has."""
        self._settings = settings
        self._client = settings.connect()
        self._queues = queues
        self._widths = range(2, most + 1)
        self._rounds = Rounds("wide-demand", self._round, _LOOK_EVERY_S, at_once=False)
        self.found: tuple[Demand, ...] = ()
        """May be read from any thread."""

    @property
    def serves(self) -> bool:
        """Whether the node can have wide slots at all."""
        return bool(self._widths)

    def start(self) -> None:
        """Begin."""
        if self.serves:
            self._rounds.start()

    def stop(self) -> None:
        """End. Safe to call twice."""
        self._rounds.stop()
        self._client.close()

    def look(self, client: redis.Redis) -> tuple[Demand, ...]:
        """Ask now. Raises redis.RedisError."""
        classes = wide_classes(self._queues(), self._widths)
        keys = self._settings.keys
        with client.pipeline(transaction=False) as pipe:
            for name in classes:
                pipe.zcard(keys.waiting(name))
                pipe.zrange(keys.waiting(name), 0, 0, withscores=True)
            answers: list[Any] = pipe.execute() if classes else []
        now = time.time()
        jobs: dict[tuple[Kind, int], int] = {}
        ages: dict[tuple[Kind, int], float] = {}
        for name, count, first in zip(classes, answers[::2], answers[1::2], strict=True):
            if count and first:
                what = (QueueClass.from_name(name).device, classes[name])
                jobs[what] = jobs.get(what, 0) + int(count)
                age = max(0.0, now - float(first[0][1]) / 1000)
                ages[what] = max(ages.get(what, 0.0), age)
        self.found = tuple(
            Demand(kind=what[0], width=what[1], jobs=count, age=ages[what])
            for what, count in jobs.items()
        )
        return self.found

    def _round(self) -> None:
        try:
            self.look(self._client)
        except redis.RedisError as error:
            log.warning("demand.unknown error=%s", error)
