"""The node's secrets: a file of names and values that only the node's user can read.

``trust.secrets`` names it, and each line of it is one::

    hf-token: "hf_abcdefghijkl"

It is read anew for each job that asks, so a value can be changed under a running node. What is
wrong with it is said without a value.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from tasks.errors import ConfigError
from tasks.job_rules import SECRET_NAME
from worker.stream.masking import LEAST
from worker.yaml_lines import YamlFault, parse

_MOST_BYTES: Final = 1 << 20
MOST_VALUE: Final = 64 * 1024
"""Characters of one."""


class Secrets:
    """See the module's docstring."""

    def __init__(self, path: Path | None) -> None:
        """None: the node has none."""
        self._path = path

    def names(self) -> frozenset[str]:
        """Those that it has. Raises ConfigError: the file is wrong, and where."""
        return frozenset(self._all())

    def take(self, names: Iterable[str]) -> dict[str, str]:
        """The values of these, as far as it has them. Raises ConfigError: the file is wrong."""
        found = self._all()
        return {name: found[name] for name in names if name in found}

    def _all(self) -> Mapping[str, str]:
        if self._path is None:
            return {}
        try:
            content = parse(_private_text(self._path)).value
        except YamlFault as fault:
            # what it says of the fault may quote the line
            raise ConfigError(
                f"{self._path}:{fault.line}: is no YAML of names and values"
            ) from None
        if content is None:
            return {}
        if not isinstance(content, dict):
            raise ConfigError(f'{self._path}:1: lines such as hf-token: "…" are needed')
        return {name: _checked(self._path, name, value) for name, value in content.items()}


def _private_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            about = os.fstat(file.fileno())
            raw = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if stat.S_IMODE(about.st_mode) & 0o077 or about.st_uid not in (0, os.geteuid()):
        raise ConfigError(
            f"{path}: others than root and this node's user may read it, or it is theirs; say "
            f"chown {os.geteuid()} {path} and chmod 600 {path}"
        )
    if len(raw) > _MOST_BYTES:
        raise ConfigError(f"{path}: is larger than {_MOST_BYTES >> 20} MiB")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text") from None


def _checked(path: Path, name: object, value: object) -> str:
    if not isinstance(name, str) or not SECRET_NAME.fullmatch(name):
        raise ConfigError(
            f"{path}: one of the names is none: 1 to 64 of A-Z, a-z, 0-9 and '_.-' are needed, "
            "beginning with a letter"
        )
    if not isinstance(value, str):
        raise ConfigError(f"{path}: {name}: its value must be text: put it in quotes")
    if len(value.strip()) < LEAST or len(value) > MOST_VALUE or "\0" in value:
        raise ConfigError(
            f"{path}: {name}: {LEAST} to {MOST_VALUE} characters without NUL are needed: a "
            "shorter one could not be told from other text in what a job prints"
        )
    return value
