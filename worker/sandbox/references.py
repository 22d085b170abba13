"""Image references: what they name, which of them a node allows, where the project's own are. Pure.

A job or an operator writes ``cyxwiz/executor:cpu-latest``; ``docker.registry`` says where the
project's images are. ``cyxwiz/`` at the front stands for it: with ``registry.example:5000/team``
that is ``registry.example:5000/team/executor:cpu-latest``. Any other reference is taken as it
stands. The allow-list is held against what was written and never against what came of it, so moving
the registry changes no rule.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

OWN: Final = "cyxwiz/"
"""Stands for ``docker.registry`` at the front of a reference."""

_HUB: Final = "docker.io"
_COMPONENT: Final = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_DOMAIN: Final = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?"
_REFERENCE: Final = re.compile(
    rf"(?:(?P<domain>{_DOMAIN})/)?(?P<path>{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?"
    r"(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_MOST: Final = 512


class BadReference(ValueError):
    """No image reference; the message says what is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """Which image is meant."""

    domain: str
    """The registry's host, and port if it has one."""
    path: str
    """The repository, without the registry."""
    tag: str
    """'' where only a digest was given."""
    digest: str
    """``sha256:…`` or ''."""

    @property
    def repository(self) -> str:
        """With the registry, but without it for Docker's own, as engines show it."""
        if self.domain != _HUB:
            return f"{self.domain}/{self.path}"
        return self.path.removeprefix("library/")

    @property
    def version(self) -> str:
        """What a pull asks for: the digest where there is one, else the tag."""
        return self.digest or self.tag

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.repository}{tag}{digest}"

    @property
    def whole(self) -> str:
        """With everything that is left out in writing."""
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.domain}/{self.path}{tag}{digest}"


def parse(text: str) -> Reference:
    """The reference that ``text`` is; without tag and digest it means ``latest``.

    Raises:
        BadReference: it is none.
    """
    found = _REFERENCE.fullmatch(text) if len(text) <= _MOST else None
    if found is None:
        raise BadReference(
            f"{text!r:.100} is no image reference: [HOST[:PORT]/]NAME[:TAG][@sha256:DIGEST], the "
            "name of a-z, 0-9, '.', '_', '-' and '/'"
        )
    domain, path = found["domain"], found["path"]
    if domain is not None and not ("." in domain or ":" in domain or domain == "localhost"):
        # no host: the first part of the name
        if re.fullmatch(_COMPONENT, domain) is None:
            raise BadReference(f"{text!r:.100}: {domain!r} is neither a host nor part of a name")
        domain, path = None, f"{domain}/{path}"
    if domain is None:
        domain = _HUB
        path = path if "/" in path else f"library/{path}"
    tag = found["tag"] or ("" if found["digest"] else "latest")
    return Reference(domain=domain, path=path, tag=tag, digest=found["digest"] or "")


def placed(text: str, registry: str) -> Reference:
    """What ``text`` means on a node whose ``docker.registry`` is ``registry``."""
    if text.startswith(OWN):
        return parse(f"{registry.rstrip('/')}/{text.removeprefix(OWN)}")
    return parse(text)


def allowed(text: str, patterns: Iterable[str]) -> bool:
    """Whether a node with these patterns in ``images.allow`` runs the image ``text``.

    A pattern is a reference with ``*`` for any text; without a tag it means every tag and digest;
    with ``@sha256:…`` that image alone, by whatever tag; ``sha256:…`` alone, from anywhere.
    ``cyxwiz/…`` as a pattern means the project's own, wherever ``docker.registry`` puts them:
    ``docker.io/cyxwiz/…`` is somebody's on a node that has them elsewhere. Raises BadReference.
    """
    meant = parse(text)
    name = text.partition("@")[0] if text.startswith(OWN) else f"{meant.domain}/{meant.path}"
    name = name.removesuffix(f":{meant.tag}") if text.startswith(OWN) else name
    return any(_fits(name, meant, pattern) for pattern in patterns)


def _fits(name: str, meant: Reference, pattern: str) -> bool:
    if pattern.startswith("sha256:"):
        return meant.digest == pattern
    wanted, _, digest = pattern.partition("@")
    if digest and meant.digest != digest:
        return False
    if not wanted.startswith((OWN, "*")):
        first, slash, _ = wanted.partition("/")
        if not slash:
            wanted = f"{_HUB}/library/{wanted}"
        elif not ("." in first or ":" in first or first == "localhost"):
            wanted = f"{_HUB}/{wanted}"
    if ":" in wanted.rpartition("/")[2]:
        return bool(meant.tag) and fnmatch.fnmatchcase(f"{name}:{meant.tag}", wanted)
    return fnmatch.fnmatchcase(name, wanted)
