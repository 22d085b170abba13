"""The keys that a node trusts, and what a job is to it: signed by one of them, or untrusted."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import BadSignature, ConfigError, UnknownKey
from tasks.job import JobConfig
from tasks.trust import Stamp, verify
from worker.trust.keyfile import TrustedKey, read_key

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """What a job is to this node."""

    why: str
    """For people."""
    key: TrustedKey | None = None
    """Whose job it is; None: it is untrusted, and may have what any job may."""
    stamp: Stamp | None = None
    signed: bool = False
    """It has a signature, by whomever: another node may trust it."""

    @property
    def native(self) -> bool:
        """Whether it may run without a container."""
        return self.key is not None and self.key.scope.native

    @property
    def images(self) -> tuple[str, ...]:
        """Patterns of images that it may have beside those of ``images.allow``."""
        return self.key.scope.images if self.key is not None else ()


UNSIGNED = Standing(why="it is not signed")


class Keyring:
    """The keys of ``trust.keys``. Read anew for each signed job: a key that is taken out, or whose
    scope is made smaller, counts from the next job on."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)

    def __bool__(self) -> bool:
        return bool(self._paths)

    def check(self) -> list[TrustedKey]:
        """All keys. Raises ConfigError: a file is wrong, or two are of one key."""
        found: dict[str, TrustedKey] = {}
        for path in self._paths:
            key = read_key(path)
            other = found.setdefault(key.key_id, key)
            if other is not key:
                raise ConfigError(f"{path}: has the key of {other.path}: leave one of them out")
        return list(found.values())

    def standing(self, job: JobConfig, now: float) -> Standing:
        """What the job is here. ``now``: seconds since the epoch, by this node's clock.

        Raises BadSignature: it was signed by one of the keys and is not, or no more, what that
        signed. No node may run it.
        """
        if job.signature is None:
            return UNSIGNED
        keys = self.readable()
        try:
            stamp = verify(job, {one.key_id: one.public for one in keys}, now)
        except UnknownKey as error:
            return Standing(why=str(error), signed=True)
        key = next(one for one in keys if one.key_id == stamp.key_id)
        if key.expires is not None and now >= key.expires:
            raise BadSignature(f"signature: the key {key.name} has expired on this node")
        return Standing(why=f"signed by {key.name}", key=key, stamp=stamp, signed=True)

    def readable(self) -> list[TrustedKey]:
        """The keys as they are now. A file that has become wrong takes its own key away alone."""
        found: dict[str, TrustedKey] = {}
        for path in self._paths:
            try:
                key = read_key(path)
            except ConfigError as error:
                log.error("trust.key_unusable error=%s", error)
            else:
                found.setdefault(key.key_id, key)
        return list(found.values())
