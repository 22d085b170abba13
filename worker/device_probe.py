"""Whether a container of the node's engine sees a slot's devices: tried, with a container.

A slot reads the queues of sandboxed GPU jobs only after that. What was found is kept beside the
slot's record, for as long as the engine and the devices are the same.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tasks.errors import KeeperError, RuntimeUnavailable
from tasks.job import JobConfig
from worker.devices.allocation import Request
from worker.devices.pool import DevicePool
from worker.launchers import Asked
from worker.launchers.container import ContainerLauncher
from worker.launchers.container_plan import PYTHON
from worker.node.paths import NodePaths
from worker.parts import Place
from worker.plan import AttemptId, ExitStatus, LaunchPlan, Limits
from worker.runtimes.base import Chunk, Handle, Stream
from worker.runtimes.engine.gpus import Via

if TYPE_CHECKING:
    from worker.runtimes.engine.runtime import EngineRuntime

log = logging.getLogger(__name__)

_WITHIN_S: Final = 60.0
_LIMITS: Final = Limits(memory_mb=512, cpu_cores=1, shm_size_mb=16, pids=64, nofile=1024)
_SAID_MOST: Final = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What a probe came to."""

    via: str = ""
    """How the engine is asked; '' if no way works."""
    why: str = ""
    """Why none does."""


class DeviceProbe:
    """For one slot, in one process."""

    def __init__(
        self,
        runtime: EngineRuntime,
        pool: DevicePool,
        paths: NodePaths,
        place: Place,
        *,
        share: float = 1.0,
    ) -> None:
        """``share``: of each device, as the slot's jobs have it: one of a neighbour may run."""
        self._runtime = runtime
        self._pool = pool
        self._paths = paths
        self._place = place
        self._share = share

    def seen(self) -> Seen:
        """Whether its containers see the slot's devices, and how they are asked for. Never
        raises."""
        try:
            about = self._about()
            before = self._kept(about)
            if before is not None:
                return before
            found = self._try_all()
        except (RuntimeUnavailable, KeeperError, OSError) as error:
            return Seen(why=str(error))
        if found.via:
            self._keep(about, found)
        return found

    def _about(self) -> dict[str, Any]:
        info = self._runtime.manager.info()
        return {
            "engine": str(info.get("ID", "")),
            "version": self._runtime.version(),
            "devices": list(self._place.devices),
            "cuda": self._place.cuda,  # it decides on the image
        }

    def _try_all(self) -> Seen:
        wrong = []
        for via in self._runtime.device_ways(self._place.devices):
            why = self._try(via)
            log.info("device.probed slot=%s via=%s why=%s", self._place.slot, via, why)
            if not why:
                return Seen(via=via)
            wrong.append(f"{via}: {why}")
        return Seen(why="; ".join(wrong))

    def _try(self, via: Via) -> str:
        """Why a container does not see the devices by this way; '' if it does."""
        place = self._place
        attempt = AttemptId(job_id=f"probe-{place.slot}", fence=time.monotonic_ns())
        request = Request(
            count=len(place.devices), only=frozenset(place.devices), share=self._share
        )
        job = JobConfig.parse(
            {
                "command": [PYTHON, "-S", "-c", ""],
                "required_device": str(place.kind),
                "gpus": len(place.devices),
                "job_id": attempt.job_id,
            }
        )
        launcher = ContainerLauncher(self._runtime, self._paths, device=place.kind, cuda=place.cuda)
        picked = launcher.prepare(job, None, lambda image, detail: None)
        with self._pool.grant(place.slot, request, attempt=str(attempt)) as held:
            plan = launcher.plan(
                Asked(
                    job=job,
                    attempt=attempt,
                    number=1,
                    grant=replace(held.grant, via=via),
                    limits=_LIMITS,
                    checkpoints=self._paths.job(attempt.job_id) / "checkpoints",
                    data=None,
                    code=None,
                ),
                picked,
            )
            try:
                handle = self._runtime.start(plan, time.monotonic() + _WITHIN_S)
            except RuntimeUnavailable as error:
                _clear(plan)
                return str(error)
        try:
            return _said(handle)
        finally:
            handle.remove()
            _clear(plan)

    def _kept(self, about: dict[str, Any]) -> Seen | None:
        try:
            content = json.loads(self._file.read_bytes())
            via = Via(content.pop("via"))
        except (OSError, ValueError, KeyError, AttributeError):
            return None
        return Seen(via=via) if content == about else None

    def _keep(self, about: dict[str, Any], found: Seen) -> None:
        self._file.write_text(json.dumps({**about, "via": found.via}))

    @property
    def _file(self) -> Path:
        return self._paths.slots / f"{self._place.slot}.gpus"


def _clear(plan: LaunchPlan) -> None:
    """Its empty directories: nothing else would look for those of no job."""
    for directory in (plan.output, plan.checkpoints, plan.output.parent):
        with contextlib.suppress(OSError):
            directory.rmdir()


def _said(handle: Handle) -> str:
    """What is wrong, in the container's own words; '' if it ended well."""
    words = b""
    until = time.monotonic() + _WITHIN_S
    while time.monotonic() < until:
        item = handle.read(1.0)
        if isinstance(item, Chunk):
            handle.ack(item.stream, item.offset + len(item.data))
            if item.stream is Stream.STDERR:
                words += item.data
        if isinstance(item, ExitStatus):
            if item.code == 0:
                return ""
            text = words.decode(errors="replace").strip()[-_SAID_MOST:]
            return text or item.error or f"exited with {item.code}"
    return f"did not end within {_WITHIN_S:g} s"
