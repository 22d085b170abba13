"""Attempts in containers of the node's engine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tasks.choices import Device
from tasks.job import JobConfig
from worker.launchers import Asked, Picked
from worker.node.paths import NodePaths
from worker.plan import LaunchPlan
from worker.runtimes.base import Handle
from worker.runtimes.engine.errors import DevicesUnavailable, ImageUnavailable
from worker.runtimes.engine.handle import EngineHandle
from worker.runtimes.engine.runtime import EngineRuntime
from worker.sandbox.launch import container_plan
from worker.sandbox.selection import NoImage, known_images, select_image


class ContainerLauncher:
    """See `worker.launchers.Launcher`."""

    def __init__(
        self,
        runtime: EngineRuntime,
        paths: NodePaths,
        *,
        device: Device,
        also_images: tuple[str, ...] = (),
    ) -> None:
        """``device``: what the slot is made of. ``also_images``: patterns beside images.allow."""
        self.runtime = runtime
        self._paths = paths
        self._device = device
        self._also_images = also_images

    def prepare(self, job: JobConfig, before: str, progress: Callable[[str, str], None]) -> Picked:
        if job.image is not None and self._device.is_gpu and not self.runtime.tells_devices:
            raise DevicesUnavailable(
                f"image: {job.image} is asked for, and this engine does not say which GPUs a "
                "container got: only the node's own images can show it from inside"
            )
        images = self.runtime.images.allowing(self._also_images)
        known = [] if job.image is not None else known_images(images.tags(), images.own)
        choice = select_image(
            image=job.image, version=job.image_version, device=self._device, known=known
        )
        if isinstance(choice, NoImage):
            raise ImageUnavailable(choice.message)

        def told(detail: str) -> None:
            progress(choice.reference, detail)

        self.runtime.prepare(None, told)
        image = images.again(choice.reference, before, told) if before else None
        if image is None:
            image = images.ensure(choice.reference, told)
        _note_use(self._paths, image.id)
        return Picked(
            reference=choice.reference,
            id=image.id,
            digest=images.digest(choice.reference, image),
            why=choice.why,
        )

    def plan(self, asked: Asked, picked: Picked) -> LaunchPlan:
        plan = container_plan(
            job=asked.job,
            attempt=asked.attempt,
            number=asked.number,
            image=picked.reference,
            image_id=picked.id,
            paths=self._paths,
            grant=asked.grant,
            limits=asked.limits,
            data=asked.data,
            code=asked.code,
        )
        return replace(plan, also_images=self._also_images)

    def report(self, handle: Handle) -> dict[str, Any]:
        seen = handle.report if isinstance(handle, EngineHandle) else None
        return {} if seen is None else seen.for_record()


def _note_use(paths: NodePaths, image_id: str) -> None:
    """When an image was last used is what its removal goes by."""
    mark = paths.image_use(image_id)
    try:
        os.utime(mark)
    except FileNotFoundError:
        mark.write_text(f"{time.time():.0f}\n")
