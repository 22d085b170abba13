"""GPUs, as their drivers show them."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Final

from worker.cli.checks.base import Check, missing, ok

_WITHIN_S: Final = 20.0
"""nvidia-smi takes seconds on a host with many GPUs and no persistence daemon."""
_QUERY: Final = "--query-gpu=name,memory.total,driver_version"
_WHY: Final = "jobs with required_device: cuda cannot run here"


def check_nvidia() -> Check:
    """NVIDIA GPUs: device nodes, the driver's library, and what nvidia-smi lists."""
    name = "gpus (nvidia)"
    device, library = Path("/dev/nvidiactl").exists(), _has_nvml()
    program = shutil.which("nvidia-smi")
    if not device and not library and program is None:
        return missing(
            name,
            "none",
            why=_WHY,
            todo="nothing, on a host without one; else install the NVIDIA driver, and in a "
            "container pass the GPUs in (docker run --gpus)",
        )
    if program is None:
        parts = " and ".join(
            what for there, what in ((device, "/dev/nvidiactl"), (library, "NVML")) if there
        )
        return missing(
            name,
            f"{parts}, but no nvidia-smi",
            why="what GPUs there are cannot be told",
            todo="install the driver's utilities (nvidia-smi)",
        )
    try:
        done = subprocess.run(
            [program, _QUERY, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=_WITHIN_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return _failed(name, str(error))
    if done.returncode != 0:
        return _failed(name, (done.stdout + done.stderr).strip()[-300:])
    found = _listed(done.stdout)
    if not library:
        return missing(
            name,
            found,
            why="libnvidia-ml.so.1 cannot be loaded, by which a node watches its GPUs",
            todo="install the driver's library, or pass it into this container",
        )
    return ok(name, found)


def check_amd() -> Check | None:
    """AMD GPUs; None where nothing hints at one."""
    if not Path("/dev/kfd").exists():
        return None
    nodes = len(list(Path("/dev/dri").glob("renderD*")))
    return ok("gpus (rocm)", f"/dev/kfd, {nodes} render nodes")


def _failed(name: str, why: str) -> Check:
    return missing(
        name,
        "nvidia-smi fails",
        why=f"{_WHY}: {why}",
        todo="see that the driver fits the kernel (dmesg), and load it again or reboot",
    )


def _listed(text: str) -> str:
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines() if line]
    kinds = Counter((row[0], row[1]) for row in rows if len(row) >= 3)
    if not kinds:
        return "none"
    listed = ", ".join(
        f"{count} x {model} ({memory} MiB)" for (model, memory), count in sorted(kinds.items())
    )
    return f"{listed}, driver {rows[0][2]}"


def _has_nvml() -> bool:
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    return True
