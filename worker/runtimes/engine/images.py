"""The images of one engine as a node uses them: allowed, fetched by its policy, cleaned."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

from worker.engine_sections import PullPolicy
from worker.runtimes.engine.errors import Conflict, ImageForbidden, ImageUnavailable, NotFound
from worker.runtimes.engine.manager import ContainerManager, Image
from worker.runtimes.engine.pulls import Puller
from worker.sandbox.references import BadReference, Reference, allowed, placed
from worker.sandbox.selection import REPOSITORY

log = logging.getLogger(__name__)

_RECENT: Final = 3600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRules:
    """What ``server-node.yaml`` says about images."""

    registry: str
    """``docker.registry``"""
    allow: tuple[str, ...]
    """``images.allow``"""
    policy: PullPolicy
    """``docker.pull_policy``"""


class ImageStore:
    """See the module's docstring. Thread-safe."""

    def __init__(self, manager: ContainerManager, puller: Puller, rules: ImageRules) -> None:
        self._manager = manager
        self._puller = puller
        self._rules = rules

    def allowing(self, also: tuple[str, ...]) -> ImageStore:
        """The same, where ``also`` are allowed beside ``images.allow``."""
        if not also:
            return self
        rules = replace(self._rules, allow=(*self._rules.allow, *also))
        return ImageStore(self._manager, self._puller, rules)

    def reference(self, text: str) -> Reference:
        """What ``text`` means here.

        Raises:
            ImageForbidden: the allow-list does not name it, or it is no reference.
        """
        try:
            fine = allowed(text, self._rules.allow)
            meant = placed(text, self._rules.registry)
        except BadReference as error:
            raise ImageForbidden(f"image: {error}") from error
        if not fine:
            raise ImageForbidden(
                f"image {text} is not allowed on this node: images.allow names "
                f"{', '.join(self._rules.allow) or 'none'}"
            )
        return meant

    @property
    def own(self) -> str:
        """Where the project's executor images are for this node, as the engine shows it."""
        return placed(REPOSITORY, self._rules.registry).repository

    def tags(self) -> list[str]:
        """The tags of the project's executor images that the engine has."""
        images = self._manager.list_images(f"{self.own}:")
        return [tag for image in images for tag in image.tags]

    def digest(self, text: str, image: Image) -> str:
        """``REPOSITORY@sha256:…`` of the image that ``text`` meant; '' if no registry has it."""
        mark = f"{self.reference(text).repository}@"
        return next((one for one in image.digests if one.startswith(mark)), "")

    def again(self, text: str, before: str, progress: Callable[[str], None]) -> Image | None:
        """The image that an earlier attempt of a job ran for ``text``, wherever its tag is now.

        ``before``: its digest, ``REPOSITORY@sha256:…``, which is fetched if it must be; or the id
        that it had in one engine, which may not be here: then None.

        Raises:
            ImageForbidden, ImageUnavailable: see `ensure`.
        """
        meant = self.reference(text)  # what is not allowed now does not run again either
        repository, at, digest = before.partition("@")
        wanted = before if at and repository == meant.repository else ""
        try:
            return self._manager.image(wanted or before)
        except NotFound:
            if not wanted or self._rules.policy is PullPolicy.NEVER:
                return None
        self._puller.pull(replace(meant, tag="", digest=digest), progress)
        return self._manager.image(wanted)

    def present(self, text: str, image_id: str = "") -> Image:
        """The image that the engine has for ``text``; by ``image_id``, if it was chosen before.

        Raises:
            ImageForbidden: see `reference`.
            ImageUnavailable: it is not here.
        """
        meant = self.reference(text)
        try:
            return self._manager.image(image_id or str(meant))
        except NotFound:
            raise ImageUnavailable(f"image {meant} is not on this node") from None

    def ensure(self, text: str, progress: Callable[[str], None]) -> Image:
        """The image for ``text``, pulled where the policy says so. ``progress`` hears how it goes.

        Raises:
            ImageForbidden: see `reference`; nothing was pulled.
            ImageUnavailable: it cannot be had; a stale one is never taken for it.
        """
        meant = self.reference(text)
        policy = self._rules.policy
        if policy is not PullPolicy.ALWAYS:
            try:
                return self._manager.image(str(meant))
            except NotFound:
                if policy is PullPolicy.NEVER:
                    raise ImageUnavailable(
                        f"image {meant} is not on this node, and docker.pull_policy is never: "
                        f"docker pull {meant}"
                    ) from None
        self._puller.pull(meant, progress)
        try:
            return self._manager.image(str(meant))
        except NotFound:
            raise ImageUnavailable(f"image {meant} was pulled, and is not there") from None

    def preload(self, texts: Iterable[str], progress: Callable[[str], None]) -> list[str]:
        """Have these images ready before a job asks; what cannot be had is said and no error.

        Returns the references that could not be had, each with the reason.
        """
        failed = []
        for text in texts:
            try:
                self.ensure(text, progress)
            except (ImageForbidden, ImageUnavailable) as error:
                log.warning("image.not_preloaded image=%s error=%s", text, error)
                failed.append(f"{text}: {error}")
        return failed

    def clean(
        self,
        *,
        used: Callable[[str], float],
        older_than: float,
        enough_room: Callable[[], bool] = lambda: True,
        spare: Iterable[str] = (),
        now: float | None = None,
    ) -> list[str]:
        """Remove the project's executor images that no job has used for ``older_than`` seconds;
        and, while there is not ``enough_room``, any that has not been used within the hour, those
        that were used longest ago first. Returns the tags that were removed.

        ``used``: of an image's id, when it was last used (seconds since the epoch; 0: it is not
        known, then its making counts). ``spare``: references that stay, as they are wanted soon.
        One that a container uses stays, and so does every image that is not the project's.
        """
        now = time.time() if now is None else now
        kept = {str(self.reference(text)) for text in spare}
        idle = [
            (now - (used(image.id) or image.created), image)
            for image in self._manager.list_images(f"{self.own}:")
            if not kept & set(image.tags)
        ]
        removed = []
        for age, image in sorted(idle, key=lambda one: one[0], reverse=True):
            if age > older_than or (age > _RECENT and not enough_room()):
                removed += self._remove(image)
        return removed

    def _remove(self, image: Image) -> list[str]:
        removed = []
        for tag in (one for one in image.tags if one.startswith(f"{self.own}:")):
            try:
                self._manager.remove_image(tag)
            except Conflict:
                continue
            removed.append(tag)
            log.info("image.removed image=%s id=%s", tag, image.id)
        return removed
