"""The key that a node signs results and events with, and the enrolment that it shows for it.

The key is a file of the state directory, mode 0600, made at the node's first start. Who may read it
can speak as the node: a native job runs as the node's user, and may.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import secrets
from pathlib import Path
from typing import Any, Final

from tasks.enrolment import Enrolment
from tasks.errors import ConfigError, KeyUnusable, NodeUntrusted
from tasks.trust import SigningKey
from tasks.vouching import Signer
from worker.config import NodeConfig
from worker.node.log import event
from worker.node.paths import NodePaths

_MOST_BYTES: Final = 16 * 1024
_SAID_EVERY_S: Final = 24 * 3600.0


def node_key(paths: NodePaths) -> SigningKey:
    """The node's key; made if there is none. Raises KeyUnusable."""
    if not paths.node_key.exists():
        fresh = paths.state_dir / f".{secrets.token_hex(8)}.key"
        SigningKey.generate().save(fresh)
        try:
            os.link(fresh, paths.node_key)  # of several who make one at once, one wins
            _sync(paths.state_dir)  # else a host that fails now comes back as another node
        except FileExistsError:
            pass
        except OSError as error:
            raise KeyUnusable(f"key {paths.node_key}: cannot be made: {error.strerror}") from None
        finally:
            fresh.unlink()
    return SigningKey.load(paths.node_key)


def node_signer(config: NodeConfig, paths: NodePaths, slot: str = "") -> Signer | None:
    """What signs for this node; None where ``trust.sign_results`` says that nothing shall.

    Raises ConfigError: the key cannot be used, or the enrolment is not of this node and key.
    """
    if not config.trust.sign_results:
        return None
    try:
        key = node_key(paths)
    except KeyUnusable as error:
        raise ConfigError(f"trust.sign_results: {error}") from None
    return Signer(key, config.node.name, slot, _certificate(config, paths, key))


def enrolment_of(config: NodeConfig, paths: NodePaths) -> Enrolment | None:
    """The enrolment that the node shows; None: it has none, or signs nothing. Nobody has verified
    it: that is for whoever has the operator's key.

    Raises ConfigError: it is none, or not of this node.
    """
    if not config.trust.sign_results:
        return None
    path = config.trust.enrolment or paths.enrolment
    try:
        found = Enrolment.parse(json.loads(_text(path)))
    except FileNotFoundError:
        if config.trust.enrolment is None:
            return None
        raise ConfigError(f"trust.enrolment: {path}: there is no such file") from None
    except OSError as error:
        raise ConfigError(f"trust.enrolment: {path}: cannot be read: {error.strerror}") from None
    except (ValueError, NodeUntrusted) as error:
        raise ConfigError(f"trust.enrolment: {path}: {error}") from None
    if found.node != config.node.name:
        raise ConfigError(
            f"trust.enrolment: {path}: is of node {found.node}; this is {config.node.name}: have "
            "that enrolled (`cyxwiz keys node` shows it)"
        )
    return found


class Ending:
    """Says in the log that the node's enrolment ends, or has ended: once a day."""

    def __init__(self, enrolment: Enrolment | None) -> None:
        self._enrolment = enrolment
        self._next = 0.0

    def say(self, now: float) -> None:
        """``now``: seconds since the epoch."""
        if self._enrolment is None or now < self._next:
            return
        self._next = now + _SAID_EVERY_S
        said = self._enrolment.ending(now)
        if said:
            over = now > self._enrolment.not_after
            event("trust.enrolment", level=logging.ERROR if over else logging.WARNING, why=said)


def _certificate(config: NodeConfig, paths: NodePaths, key: SigningKey) -> dict[str, Any] | None:
    found = enrolment_of(config, paths)
    if found is None:
        return None
    if found.public.key_id != key.public.key_id:
        raise ConfigError(
            f"trust.enrolment: {config.trust.enrolment or paths.enrolment}: is of node "
            f"{found.node} with the key {found.public.key_id}; this is {config.node.name} with "
            f"{key.public.key_id}: have that enrolled (`cyxwiz keys node` shows it)"
        )
    return found.to_json()


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # no file system must know it
            raise
    finally:
        os.close(fd)


def _text(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return file.read(_MOST_BYTES)
