"""Who this node is, and the lock that makes its agent the only one of its state directory."""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tasks.errors import NodeConflict, PlatformError
from worker.devices import leases
from worker.node.paths import NodePaths

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NODE_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeIdentity:
    """One run of one node's agent."""

    name: str
    """What people and queues call the node."""
    node_id: str
    """Of the state directory, for ever: two nodes with one name differ in it."""
    instance: str
    """Of this agent process."""
    hostname: str
    boot_id: str
    pid: int
    started: float
    """Seconds since the epoch, by this host's clock."""


def identify(name: str, paths: NodePaths) -> NodeIdentity:
    """The identity of the agent in this process. Its `AgentLock` must be held."""
    return NodeIdentity(
        name=name,
        node_id=_node_id(paths.node_id),
        instance=uuid.uuid4().hex,
        hostname=socket.gethostname(),
        boot_id=boot_id(),
        pid=os.getpid(),
        started=time.time(),
    )


def boot_id() -> str:
    """Names the boot of this host: process ids and start times mean nothing after another."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def require_pidfd() -> None:
    """Raise PlatformError where an agent cannot watch processes that it did not start."""
    if not hasattr(os, "pidfd_open") or not _BOOT_ID.exists():
        raise PlatformError(
            "a node needs Linux 5.3 or newer, with /proc (on macOS: run it in a Linux virtual "
            "machine). Submitting and following jobs works here as it is."
        )


class AgentLock:
    """The right to be the agent of a state directory; ends with the process, whatever ends it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def take(cls, paths: NodePaths) -> Self:
        """Take it, or say who has it.

        Raises:
            NodeConflict: another agent has it; the message names its pid.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(paths.agent_lock, flags, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            content = {"pid": os.getpid(), "started": time.time(), "boot_id": boot_id()}
            os.ftruncate(fd, 0)
            os.pwrite(fd, json.dumps(content).encode(), 0)
        except BlockingIOError:
            os.close(fd)
            raise NodeConflict(
                f"{paths.state_dir}: an agent runs there already, with pid "
                f"{_holder(paths.agent_lock)}; stop it first, or give this node a directory of "
                "its own (node.state_dir)"
            ) from None
        except BaseException:
            os.close(fd)
            raise
        return cls(fd)

    def release(self) -> None:
        """Safe to call twice. The file stays: deleting it would let two agents hold one lock."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.ftruncate(fd, 0)
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def agent_pid(paths: NodePaths) -> int | None:
    """The pid of the agent that holds the lock of this state directory; None if none does."""
    try:
        if not leases.held(paths.agent_lock):
            return None
    except OSError:
        return None
    holder = _holder(paths.agent_lock)
    return holder if isinstance(holder, int) else None


def _holder(path: Path) -> int | str:
    try:
        return int(json.loads(path.read_bytes())["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return "unknown"  # it has only just taken the lock


def _node_id(path: Path) -> str:
    try:
        text = path.read_text().strip()
        if _NODE_ID.fullmatch(text):
            return text
    except FileNotFoundError:
        pass
    text = uuid.uuid4().hex
    fresh = path.with_suffix(".new")
    fresh.write_text(text + "\n")
    fresh.replace(path)
    return text
