"""Registry logins, from a file that the node's configuration names: never from a user's home.

The file has the form of Docker's own ``config.json``:
``{"auths": {"registry.example:5000": {"auth": "BASE64 OF user:password"}}}``. Helpers and stores of
credentials are not asked: they belong to a person's session.
"""

from __future__ import annotations

import base64
import binascii
import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tasks.errors import ConfigError

_HUB_NAMES: Final = ("docker.io", "index.docker.io", "https://index.docker.io/v1/")


class Credentials:
    """Logins by registry."""

    def __init__(self, logins: Mapping[str, Mapping[str, str]] | None = None) -> None:
        self._logins = dict(logins or {})

    def of(self, domain: str) -> Mapping[str, str]:
        """What to show to the registry ``domain``; {} where there is no login for it."""
        names = _HUB_NAMES if domain == "docker.io" else (domain, f"https://{domain}")
        for name in names:
            if name in self._logins:
                return self._logins[name]
        return {}

    def __repr__(self) -> str:
        return f"Credentials({', '.join(self._logins)})"


def read_credentials(path: Path | None) -> Credentials:
    """The logins in the file at ``path``; none where there is no path.

    Raises:
        ConfigError: it cannot be read, others may read it, or it has another form.
    """
    if path is None:
        return Credentials()
    try:
        mode = path.stat().st_mode
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"docker.auth_file: {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"docker.auth_file: {path} is no JSON: {error}") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"docker.auth_file: others may read {path}: chmod 600 {path}")
    auths = content.get("auths") if isinstance(content, dict) else None
    if not isinstance(auths, dict):
        raise ConfigError(f'docker.auth_file: {path} has no object "auths"')
    return Credentials({name: _login(path, name, entry) for name, entry in auths.items()})


def _login(path: Path, name: str, entry: object) -> dict[str, str]:
    if isinstance(entry, dict) and isinstance(entry.get("auth"), str):
        try:
            user, colon, password = base64.b64decode(entry["auth"], validate=True).partition(b":")
            if colon:
                return {
                    "username": user.decode(),
                    "password": password.decode(),
                    "serveraddress": name,
                }
        except (binascii.Error, UnicodeDecodeError):
            pass
    raise ConfigError(
        f'docker.auth_file: {path}: auths.{name}.auth must be the base64 of "user:password"'
    )
