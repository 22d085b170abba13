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
from worker.runtimes.engine.marks import ImageMarks
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

    def __init__(
        self, manager: ContainerManager, puller: Puller, rules: ImageRules, marks: ImageMarks
    ) -> None:
        self._manager = manager
        self._puller = puller
        self._rules = rules
        self.marks = marks

    def allowing(self, also: tuple[str, ...]) -> ImageStore:
        """The same, where ``also`` are allowed beside ``images.allow``."""
        if not also:
            return self
        rules = replace(self._rules, allow=(*self._rules.allow, *also))
        return ImageStore(self._manager, self._puller, rules, self.marks)

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

        ``before``: its digest, ``REPOSITORY@sha256:…``, which is fetched if it must be, from where
        ``text`` is for this node; or the id that it had in one engine. None: it cannot be had here.

        Raises:
            ImageForbidden: see `reference`: what is not allowed now does not run again either.
        """
        meant = self.reference(text)
        _, at, digest = before.partition("@")
        if not at:
            return self._here(before)
        pinned = replace(meant, tag="", digest=digest)
        found = self._here(str(pinned)) or self._here(before)
        if found is None and self._rules.policy is not PullPolicy.NEVER:
            try:
                return self._pull(pinned, progress)
            except ImageUnavailable as error:
                log.warning("image.not_again image=%s error=%s", pinned, error)
        return found

    def _here(self, name: str) -> Image | None:
        try:
            return self._manager.image(name)
        except NotFound:
            return None

    def _pull(self, meant: Reference, progress: Callable[[str], None]) -> Image:
        """Raises ImageUnavailable."""
        had = self._here(str(meant))
        self._puller.pull(meant, progress)
        found = self._here(str(meant))
        if found is None:
            raise ImageUnavailable(f"image {meant} was pulled, and is not there")
        if had is None or had.id != found.id:
            self.marks.pulled(found.id)
        return found

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
        return self._pull(meant, progress)

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
        older_than: float,
        enough_room: Callable[[], bool] = lambda: True,
        spare: Iterable[str] = (),
        now: float | None = None,
    ) -> list[str]:
        """Remove images that this node has pulled and no job has used for ``older_than`` seconds;
        and, while there is not ``enough_room``, any that has not been used within the hour, those
        that were used longest ago first. Returns the ids of what was removed.

        ``spare``: references that stay, as they are wanted soon. One that a container is made of
        stays, and so does every image that somebody else has put there.
        """
        now = time.time() if now is None else now
        kept = {image.id for text in spare if (image := self._spared(text)) is not None}
        in_use = {str(one.get("ImageID")) for one in self._manager.containers({})}
        ages = [(now - (self.marks.last_used(one) or now), one) for one in self.marks.all()]
        removed = []
        for age, image_id in sorted(ages, reverse=True):
            due = age > older_than or (age > _RECENT and not enough_room())
            if due and image_id not in kept | in_use and self._remove(image_id, now - age):
                removed.append(image_id)
        return removed

    def _spared(self, text: str) -> Image | None:
        try:
            return self._here(str(self.reference(text)))
        except ImageForbidden:  # it would not run, so nobody waits for it
            return None

    def _remove(self, image_id: str, last_used: float) -> bool:
        """Whether it is gone. Not where a job has taken it up since it was looked at."""
        found = self._here(image_id)
        used = self.marks.last_used(image_id)
        if found is not None and used is not None and used > last_used + 1:
            return False
        try:
            for name in (*found.tags, image_id) if found is not None else ():
                self._manager.remove_image(name)
        except Conflict:
            return False
        self.marks.forget(image_id)
        log.info("image.removed id=%s tags=%s", image_id, found.tags if found else ())
        return found is not None
