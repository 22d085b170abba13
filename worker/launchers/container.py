"""Attempts in containers of the node's engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from tasks.choices import Device
from tasks.job import JobConfig
from worker.launchers import Asked, Picked
from worker.launchers.container_plan import container_plan
from worker.launchers.secrets import with_secrets
from worker.node.paths import NodePaths
from worker.plan import LaunchPlan
from worker.runtimes.base import Handle
from worker.runtimes.engine.errors import DevicesUnavailable, ImageUnavailable
from worker.runtimes.engine.handle import EngineHandle
from worker.runtimes.engine.images import ImageStore
from worker.runtimes.engine.manager import Image
from worker.runtimes.engine.runtime import EngineRuntime
from worker.sandbox.profile import TARGET_SECRETS
from worker.sandbox.selection import NoImage, known_images, select_image


class ContainerLauncher:
    """See `worker.launchers.Launcher`."""

    def __init__(
        self,
        runtime: EngineRuntime,
        paths: NodePaths,
        *,
        device: Device,
        cuda: int | None = None,
        also_images: tuple[str, ...] = (),
    ) -> None:
        """``device``: what the slot is made of. ``cuda``: see `Place`. ``also_images``: patterns
        beside images.allow."""
        self.runtime = runtime
        self._paths = paths
        self._device = device
        self._cuda = cuda
        self._also_images = also_images

    def prepare(
        self, job: JobConfig, before: Picked | None, progress: Callable[[str, str], None]
    ) -> Picked:
        if job.image is not None and self._device.is_gpu and not self.runtime.tells_devices:
            raise DevicesUnavailable(
                f"image: {job.image} is asked for, and this engine does not say which GPUs a "
                "container got: only the node's own images can show it from inside"
            )
        images = self.runtime.images.allowing(self._also_images)
        self.runtime.prepare(None, lambda detail: None)
        if before is not None:
            reference = before.reference
            again = images.again(reference, before.id, partial(progress, reference))
            if again is not None:
                return self._picked(images, reference, again, "as the attempt before")
        known = [] if job.image is not None else known_images(images.tags(), images.own)
        choice = select_image(
            image=job.image,
            version=job.image_version,
            device=self._device,
            known=known,
            cuda=self._cuda,
        )
        if isinstance(choice, NoImage):
            raise ImageUnavailable(choice.message)
        image = images.ensure(choice.reference, partial(progress, choice.reference))
        picked = self._picked(images, choice.reference, image, choice.why)
        if before is None:
            return picked
        gone = f"{before.reference} of the attempt before, {before.id}, is not to be had here"
        return replace(picked, note=gone)

    @staticmethod
    def _picked(images: ImageStore, reference: str, image: Image, why: str) -> Picked:
        images.marks.used(image.id)
        return Picked(
            reference=reference, id=image.id, digest=images.digest(reference, image), why=why
        )

    def plan(self, asked: Asked, picked: Picked) -> LaunchPlan:
        plan = replace(container_plan(asked, picked, self._paths), also_images=self._also_images)
        return with_secrets(plan, asked.secrets, TARGET_SECRETS)

    def report(self, handle: Handle) -> dict[str, Any]:
        seen = handle.report if isinstance(handle, EngineHandle) else None
        return {} if seen is None else seen.for_record()
