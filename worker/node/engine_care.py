"""What an agent does for its node's container engine, beside the slots: has images ready, clears
what no attempt has any more, removes images that nobody uses, and knows what there is.
"""

from __future__ import annotations

import logging
import math
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tasks.errors import RuntimeUnavailable
from worker.config import NodeConfig
from worker.engines import Engines, EngineState
from worker.node.rounds import Rounds

if TYPE_CHECKING:
    from worker.runtimes.engine.runtime import EngineRuntime

log = logging.getLogger(__name__)

_DAY_S: Final = 86_400.0
_NEVER_S: Final = 100 * 365 * _DAY_S
_MIB: Final = 1 << 20
_PRELOAD_AGAIN_MOST_S: Final = 3600.0
_ENDS_WITHIN_S: Final = 5.0
_GPU_FLAVOURS: Final = ("cuda", "rocm")


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineFacts:
    """What was last seen of the engine."""

    state: EngineState = field(default_factory=EngineState)
    images: tuple[str, ...] = ()
    """The project's executor images that it has, by their tags."""


class EngineCare:
    """A thread of its own, and one more while images are fetched. It outlives an engine's
    absence."""

    def __init__(
        self,
        config: NodeConfig,
        engines: Engines,
        *,
        look_every: float = 10.0,
        tidy_every: float = 60.0,
        preload_again: float = 30.0,
        has_gpus: bool = False,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """``look_every``, ``tidy_every``: seconds. ``preload_again``: seconds until what could not
        be fetched ahead is tried again; each time twice as long, at most an hour. ``has_gpus``: a
        slot of the node has; where none has, images for GPUs are not fetched ahead. ``changed``:
        called, from the thread, when the engine is another one, or good for other things."""
        self._config = config
        self._engines = engines
        self._tidy_every = tidy_every
        self._has_gpus = has_gpus
        self._changed = changed
        self._rounds = Rounds("engine", self._round, look_every)
        self._preloading = threading.Thread()
        self._preload_at = 0.0
        self._patience = preload_again
        self._tidy_at = 0.0
        self.facts = EngineFacts()
        """May be read from any thread."""

    def start(self) -> None:
        """Begin."""
        self._rounds.start()

    def configure(self, config: NodeConfig) -> None:
        """From now on, as this has it."""
        self._config = config
        self._engines.configure(config)
        self._preload_at = 0.0  # other images may be wanted now

    def stop(self) -> None:
        """End; a pull that is under way is left to the engine. Safe to call twice."""
        self._rounds.stop(_ENDS_WITHIN_S)  # an engine that hangs does not hold up the node

    def look(self) -> EngineFacts:
        """Ask the engine what it is and has."""
        state = self._engines.state(now=True)
        if state.usable != self.facts.state.usable or state.name != self.facts.state.name:
            log.info("engine.seen name=%s usable=%s why=%s", state.name, state.usable, state.reason)
        images = tuple(sorted(self._engines.runtime().images.tags())) if state.available else ()
        before, self.facts = self.facts.state, EngineFacts(state=state, images=images)
        if (before.name, before.usable) != (state.name, state.usable):
            self._changed()
        return self.facts

    def tidy(self, now: float | None = None) -> None:
        """Clear what no attempt has any more, and images that nobody uses. ``now``: seconds since
        the epoch. Raises RuntimeUnavailable."""
        runtime = self._engines.runtime()
        for name in runtime.sweep(now):
            log.info("container.swept name=%s", name)
        rules = self._config.images
        runtime.images.clean(
            older_than=rules.keep_days * _DAY_S or _NEVER_S,
            enough_room=lambda: self._roomy(runtime),
            spare=self._wanted(),
            now=now,
        )

    def preload(self) -> list[str]:
        """Fetch the images of ``docker.preload_images``; what could not be had, with reasons."""
        return self._engines.runtime().images.preload(
            self._wanted(), lambda detail: log.debug("image.preloading %s", detail)
        )

    def _wanted(self) -> list[str]:
        named: Iterable[str] = self._config.docker.preload_images
        return [one for one in named if self._has_gpus or not _for_gpus(one)]

    def _roomy(self, runtime: EngineRuntime) -> bool:
        """Whether the engine's disk has what is to be kept free; yes where nobody can tell."""
        root = Path(str(runtime.manager.info().get("DockerRootDir") or ""))
        try:
            free = shutil.disk_usage(root).free if root.is_absolute() else None
        except OSError:  # the engine is another host's, or has a file system of its own
            free = None
        return free is None or free >= self._config.images.keep_free_mb * _MIB

    def _round(self) -> None:
        try:
            self._do_what_is_due(time.monotonic())
        except RuntimeUnavailable as error:
            log.warning("engine.away error=%s", error)

    def _do_what_is_due(self, now: float) -> None:
        if not self.look().state.available:
            return
        if now >= self._preload_at and not self._preloading.is_alive():
            self._preloading = threading.Thread(target=self._preload, name="preload", daemon=True)
            self._preloading.start()
        if now >= self._tidy_at:
            self._tidy_at = now + self._tidy_every
            self.tidy()

    def _preload(self) -> None:
        try:
            failed = bool(self.preload())
        except RuntimeUnavailable as error:
            log.warning("image.not_preloaded error=%s", error)
            failed = True
        self._preload_at = time.monotonic() + self._patience if failed else math.inf
        self._patience = min(2 * self._patience, _PRELOAD_AGAIN_MOST_S)


def _for_gpus(reference: str) -> bool:
    return reference.rpartition(":")[2].startswith(_GPU_FLAVOURS)
