"""What a run left behind on its hosts, in its engine and in its Redis, when all jobs are over."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import redis

from tests.chaos.injector import Host
from tests.support import engine
from tests.support.dockerd import Dockerd
from worker.keeper import procfs

# Redis's keys that are there for as long as the cluster is; everything else has an end.
_LASTING: Final = ("queues", "nodes", "_kombu.binding", "node:", "reaper")


def found(
    directory: Path, hosts: Sequence[Host], client: redis.Redis, dockerd: Dockerd | None
) -> dict[str, list[str]]:
    """By kind; {} when there is nothing. ``directory``: the run's."""
    everything = {
        f"{host.node.name} {kind}": names
        for host in hosts
        for kind, names in host.node.leftovers().items()
    }
    everything["processes of jobs"] = _processes(directory / "log")
    everything["leases"] = _held(hosts)
    everything["mounts"] = [
        line.split()[1]
        for line in Path("/proc/self/mounts").read_text().splitlines()
        if str(directory) in line
    ]
    everything["containers"] = _containers(dockerd)
    everything["keys"] = _untimed(client)
    return {kind: names for kind, names in everything.items() if names}


def _processes(log: Path) -> list[str]:
    """Living processes of jobs that were started to write to this log: their last argument."""
    mark = str(log).encode()
    return [
        str(pid)
        for pid in procfs.pids()
        if (line := procfs.read_bytes(f"/proc/{pid}/cmdline") or b"").endswith(mark + b"\0")
        and b"-S" in line.split(b"\0")
    ]


def serving(hosts: Sequence[Host]) -> list[str]:
    """Processes that have to do with a node's directory: none has, once the nodes are stopped."""
    marks = [os.fsencode(host.node.directory) for host in hosts]
    return [
        f"{pid} {procfs.read_bytes(f'/proc/{pid}/comm')!r}"
        for pid in procfs.pids()
        if pid != os.getpid() and any(mark in _has(pid) for mark in marks)
    ]


def _has(pid: int) -> bytes:
    """What a process was started with, and what it has open."""
    place = Path(f"/proc/{pid}")
    said = [procfs.read_bytes(f"{place}/{name}") or b"" for name in ("cmdline", "environ")]
    with contextlib.suppress(OSError):  # it has ended
        said.append(os.fsencode((place / "cwd").readlink()))
        for opened in (place / "fd").iterdir():
            with contextlib.suppress(OSError):
                said.append(os.fsencode(opened.readlink()))
    return b"\n".join(said)


def _held(hosts: Sequence[Host]) -> list[str]:
    """Devices and slots that somebody still has."""
    paths = [path for host in hosts for path in sorted(host.node.paths.leases.glob("*"))]
    return [str(path) for path in paths if _is_locked(path)]


def _is_locked(path: Path) -> bool:
    opened = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(opened)
    return False


def _containers(dockerd: Dockerd | None) -> list[str]:
    if dockerd is None:
        return []
    client = engine.raw(dockerd.socket)
    try:
        return [str(one["Names"]) for one in client.containers(all=True)]
    finally:
        client.close()


def _untimed(client: redis.Redis) -> list[str]:
    """Keys without an end, but for those of the cluster itself."""
    return sorted(
        f"{key} ({client.type(key)})"
        for key in client.scan_iter(count=500)
        if client.ttl(key) == -1 and not key.removeprefix("cyxwiz:").startswith(_LASTING)
    )
