"""The trust root of whoever reads results and events: whose word counts as a node's.

A file of lines, which only its owner (or root) may write to::

    # results and events count as NODE's if this key has signed them
    node gpu-box-7 ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=
    # … or a key that this operator has enrolled as the node's
    operator ed25519:PUAXw+hDiVqStwqnTRt+vJyYLM8uxJaMwM1V8Sr0Zgw=
    # … but never this one: a node's or an operator's
    revoked 3b6a27bcceb6a42d62a3a8d02a6f0d73

A node that has a line of its own is known by that alone. Nothing that Redis says adds to it.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

from tasks.enrolment import Enrolment
from tasks.errors import KeyUnusable, NodeUntrusted
from tasks.trust import PublicKey

_MOST_BYTES: Final = 4 * 1024 * 1024
_FORMS: Final = (
    "node NAME ed25519:KEY, operator ed25519:KEY, revoked KEY_ID (or ed25519:KEY), or # a comment"
)
_WRITABLE: Final = stat.S_IWGRP | stat.S_IWOTH


class TrustRoot:
    """Which keys are whose."""

    def __init__(
        self,
        *,
        nodes: Mapping[str, tuple[PublicKey, ...]] | None = None,
        operators: tuple[PublicKey, ...] = (),
        revoked: frozenset[str] = frozenset(),
        name: str = "the trust root",
    ) -> None:
        """``nodes``: keys by node. ``revoked``: ids of keys. ``name``: for messages."""
        self._nodes = dict(nodes or {})
        self._operators = {one.key_id: one for one in operators if one.key_id not in revoked}
        self._revoked = revoked
        self._name = name

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """From a file. Raises KeyUnusable: it cannot be read, or line N is wrong."""
        try:
            with Path(path).open("rb") as file:
                about = os.fstat(file.fileno())
                text = file.read(_MOST_BYTES + 1)
        except OSError as error:
            raise KeyUnusable(f"trust {path}: cannot be read: {error.strerror}") from None
        if sys.platform != "win32" and (
            about.st_mode & _WRITABLE or about.st_uid not in (0, os.geteuid())
        ):
            raise KeyUnusable(
                f"trust {path}: others may write to it, and whoever does says whom you believe: "
                f"chmod 644 {path}, and own it"
            )
        if len(text) > _MOST_BYTES:
            raise KeyUnusable(f"trust {path}: more than {_MOST_BYTES} bytes")
        return cls.parse(text.decode("utf-8", "replace"), str(path))

    @classmethod
    def parse(cls, text: str, name: str = "the trust root") -> Self:
        """From the text of a file, called ``name``. Raises KeyUnusable."""
        nodes: dict[str, tuple[PublicKey, ...]] = {}
        operators: list[PublicKey] = []
        revoked: set[str] = set()
        for number, line in enumerate(text.splitlines(), 1):
            words = line.partition("#")[0].split()
            try:
                match words:
                    case []:
                        pass
                    case ["node", node, key]:
                        nodes[node] = (*nodes.get(node, ()), PublicKey.parse(key))
                    case ["operator", key]:
                        operators.append(PublicKey.parse(key))
                    case ["revoked", key]:
                        revoked.add(_key_id(key))
                    case _:
                        raise KeyUnusable(f"is none of: {_FORMS}")
            except KeyUnusable as error:
                raise KeyUnusable(f"trust {name}, line {number}: {error}") from None
        if not nodes and not operators:
            raise KeyUnusable(f"trust {name}: names no node and no operator: {_FORMS}")
        return cls(nodes=nodes, operators=tuple(operators), revoked=frozenset(revoked), name=name)

    @classmethod
    def of(cls, trust: TrustRoot | str | os.PathLike[str]) -> TrustRoot:
        """``trust`` itself, or what is in that file. Raises KeyUnusable."""
        return trust if isinstance(trust, TrustRoot) else cls.load(trust)

    def key_of(
        self, node: str, key_id: str, certificate: object, now: float | None = None
    ) -> PublicKey:
        """The key ``key_id``, if it is the node's. ``certificate``: an enrolment that came along,
        or None. ``now``: seconds since the epoch; None: now.

        Raises NodeUntrusted.
        """
        if key_id in self._revoked:
            raise NodeUntrusted(f"node {node}: its key {key_id} is revoked in {self._name}")
        if node in self._nodes:
            for key in self._nodes[node]:
                if key.key_id == key_id:
                    return key
            raise NodeUntrusted(f"node {node}: has another key in {self._name} than {key_id}")
        if certificate is None:
            raise NodeUntrusted(f"node {node}: is not in {self._name}, and shows no enrolment")
        found = Enrolment.parse(certificate)
        if found.node != node or found.public.key_id != key_id:
            raise NodeUntrusted(
                f"node {node}: shows an enrolment of {found.node} with the key "
                f"{found.public.key_id}, not of its own with {key_id}"
            )
        return found.verified(self._operators, time.time() if now is None else now)


def _key_id(text: str) -> str:
    if text.startswith("ed25519:"):
        return PublicKey.parse(text).key_id
    if len(text) != 32 or not set(text) <= set("0123456789abcdef"):
        raise KeyUnusable(f"{text!r:.80} is no id of a key: 32 of 0-9 and a-f")
    return text
