"""The host: platform, Python, size, configuration, state directory."""

from __future__ import annotations

import os
import platform
import shutil
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

from tasks.errors import ConfigError, PlatformError
from worker.cli.checks.base import Check, Situation, blocks, missing, ok
from worker.config import DEFAULT_PATH, NodeConfig, default_state_dir, load
from worker.host import ensure_supported_platform

_LOW_DISK_MB = 5_000


def check_platform() -> Check:
    """Whether a node can run on this system at all."""
    found = f"{platform.system()} {platform.release()}, {platform.machine()}"
    try:
        ensure_supported_platform()
        from worker.node.identity import require_pidfd

        require_pidfd()
    except (PlatformError, ImportError) as error:
        return blocks(
            "platform",
            found,
            why=str(error),
            todo="run the node on Linux 5.3 or newer (on Windows: in WSL2)",
        )
    return ok("platform", found)


def check_python() -> Check:
    """The interpreter, which native jobs get, too."""
    return ok("python", f"{platform.python_version()}, {sys.executable}")


def check_size(config: NodeConfig) -> Check:
    """Cores and memory within this process's cgroup, and the slots that they make."""
    from worker.node.host_size import host_size
    from worker.node.registry import usable_cores

    size = host_size()
    slots = config.slots.cpu_slots(usable_cores())
    many = "slot" if slots == 1 else "slots"
    return ok(
        "cpu, memory",
        f"{size.cpu_cores:g} cores, {size.memory_mb} MiB: {slots} {many} for CPU jobs",
    )


def read_config(path: Path | None, env: Mapping[str, str]) -> tuple[NodeConfig, Check]:
    """The configuration, or the defaults and why."""
    name = "configuration"
    try:
        config = load(path, env)
    except ConfigError as error:
        defaults = NodeConfig.model_validate({"node": {"state_dir": str(default_state_dir(env))}})
        return defaults, blocks(
            name,
            "wrong",
            why=str(error),
            todo="mend what is named, or leave it out; the rest was looked at with the defaults",
        )
    if path is None and not DEFAULT_PATH.exists():
        return config, ok(name, f"the defaults: there is no {DEFAULT_PATH}")
    return config, ok(name, str(path or DEFAULT_PATH))


def check_state_dir(situation: Situation) -> Check:
    """Whether the node could keep its state there. Makes nothing."""
    name, path = "state directory", situation.config.node.state_dir
    nearest = next(one for one in (path, *path.parents) if one.exists())
    todo = "set node.state_dir to a directory that only this user can write to"
    about = nearest.stat()
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        return blocks(name, str(path), why=f"this user cannot write to {nearest}", todo=todo)
    if nearest == path:
        if about.st_uid != os.geteuid():
            return blocks(name, str(path), why=f"belongs to user {about.st_uid}", todo=todo)
        if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return blocks(name, str(path), why="others can write to it", todo=f"chmod go-w {path}")
    free = shutil.disk_usage(nearest).free // 2**20
    found = f"{path} ({'is' if nearest == path else 'would be'} there, {free} MiB free)"
    if free < _LOW_DISK_MB:
        return missing(
            name,
            found,
            why="jobs with large data or models will not fit",
            todo="free some room, or set node.state_dir to a larger disk",
        )
    return ok(name, found)
