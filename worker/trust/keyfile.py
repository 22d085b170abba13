"""Files of ``trust.keys``: a public key, whose it is, and what its jobs may have.

One file is one key::

    name: alice
    public_key: ed25519:dGhpcyBpcyBub3QgYSBrZXksIGJ1dCBsb29rcyBpdCE=
    expires: 2030-01-31T00:00:00Z
    scope:
      native: false
      network: false
      images: []
      secrets: []
      exec: false
      max: {memory_mb: 0, cpu_cores: 0, shm_size_mb: 0, gpus: 0, timeout_seconds: 0}

`cyxwiz keys new` writes one. What stands under ``scope`` is the operator's to say, not the
producer's: whoever may change the file may have anything run here, so only root and the node's own
user may.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pydantic import Field, ValidationError, field_validator

from tasks.errors import ConfigError, KeyUnusable
from tasks.trust import PublicKey
from worker.config_sources import from_open, wrong_config
from worker.section import Section
from worker.trust.scope import Scope

_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}$"
_WRITABLE: Final = stat.S_IWGRP | stat.S_IWOTH


class _File(Section):
    name: str = Field(
        pattern=_NAME, description="1 to 64 of A-Z, a-z, 0-9 and '._@+-': who signs with it"
    )
    public_key: str = Field(description="ed25519: and base64, as `cyxwiz keys new` writes it")
    expires: datetime | None = Field(
        None, strict=False, description="a time with its zone, such as 2030-01-31T12:00:00Z"
    )
    scope: Scope = Field(default_factory=Scope)

    @field_validator("public_key")
    @classmethod
    def _a_key(cls, text: str) -> str:
        try:
            PublicKey.parse(text)
        except KeyUnusable as error:
            raise ValueError(str(error)) from None
        return text

    @field_validator("expires")
    @classmethod
    def _zoned(cls, moment: datetime | None) -> datetime | None:
        # YAML's own times are UTC, and come without saying so
        return moment.replace(tzinfo=UTC) if moment and moment.tzinfo is None else moment


@dataclass(frozen=True, kw_only=True, slots=True)
class TrustedKey:
    """One key that the operator trusts."""

    name: str
    public: PublicKey
    scope: Scope
    expires: float | None
    """Seconds since the epoch; None: never."""
    path: Path

    @property
    def key_id(self) -> str:
        return self.public.key_id


def check_name(name: str) -> None:
    """Raise ConfigError for what can be no key's name."""
    if not re.fullmatch(_NAME, name):
        raise ConfigError(f"name: {name!r:.80}; right: {_File.model_fields['name'].description}")


def key_file(name: str, public: PublicKey) -> str:
    """The text of a new file for ``trust.keys``, whose scope allows nothing yet."""
    return f"""\
# A key for trust.keys of a node. What its jobs may have there, beside what any job may, stands in
# scope: the node's operator writes it.
name: {name}
public_key: {public}
# expires: 2030-01-31T12:00:00Z    # the key itself; left out: never
scope:
  native: false      # without a container, where the job says sandbox: none
  network: false     # network: bridge
  images: []         # patterns of image references, beside images.allow
  secrets: []        # patterns of names of this node's secrets
  exec: false        # commands beside signed jobs, where the node has trust.allow_exec: true
  # the most that a job may ask for; 0: as much as any job
  max: {{memory_mb: 0, cpu_cores: 0, shm_size_mb: 0, gpus: 0, timeout_seconds: 0}}
"""


def read_key(path: Path) -> TrustedKey:
    """The key in a file. Raises ConfigError: path, line, what is wrong, what would be right."""
    try:
        with path.open("rb") as file:
            about = os.fstat(file.fileno())  # of what is read, whatever the name leads to by then
            source = from_open(file, path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if about.st_mode & _WRITABLE or about.st_uid not in (0, os.geteuid()):
        raise ConfigError(
            f"{path}: others than root and this node's user may write to it; whoever does can have "
            f"anything run here: say chown root {path} and chmod 644 {path}"
        )
    try:
        found = _File.model_validate(source.value)
    except ValidationError as error:
        raise wrong_config(error, source, _File) from None
    return TrustedKey(
        name=found.name,
        public=PublicKey.parse(found.public_key),
        scope=found.scope,
        expires=found.expires.timestamp() if found.expires else None,
        path=path,
    )
