"""The images of one engine as a node uses them: allowed, fetched by its policy, cleaned."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from worker.engine_sections import PullPolicy
from worker.runtimes.engine.errors import Conflict, ImageForbidden, ImageUnavailable, NotFound
from worker.runtimes.engine.manager import ContainerManager, Image
from worker.runtimes.engine.pulls import Puller
from worker.sandbox.references import BadReference, Reference, allowed, placed

log = logging.getLogger(__name__)


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

    def present(self, text: str) -> Image:
        """The image that the engine has for ``text``.

        Raises:
            ImageForbidden: see `reference`.
            ImageUnavailable: it is not here.
        """
        meant = self.reference(text)
        try:
            return self._manager.image(str(meant))
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
        self, prefix: str, *, unused_since: Callable[[str], float], older_than: float
    ) -> list[str]:
        """Remove tags that begin with ``prefix`` from images that no job has used for long.

        ``unused_since``: of an image's id, when it was last used (seconds since the epoch; 0: it is
        not known, then its making counts). ``older_than``: seconds. One that a container uses
        stays. Returns the tags that were removed.
        """
        removed = []
        now = time.time()
        for image in self._manager.list_images(prefix):
            last = unused_since(image.id) or image.created
            if now - last <= older_than:
                continue
            for tag in (one for one in image.tags if one.startswith(prefix)):
                try:
                    self._manager.remove_image(tag)
                except Conflict:
                    continue
                removed.append(tag)
        return removed
