"""A host with GPUs, stood in for below NVIDIA's own client library.

`nvml.c` is built once a session. It tells what a text file says, and looks at it again whenever it
has changed: a test takes memory, raises an Xid or loses a GPU by changing a `Host`.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

HERE = Path(__file__).parent
STATE = "STAND_IN_GPUS"


@cache
def library() -> Path:
    """The directory with ``libnvidia-ml.so.1`` and ``libcuda.so.1``, built. Without a C compiler
    the test is skipped, or under CI fails."""
    compiler = shutil.which("gcc")
    if compiler is None:
        why = "gcc is not on PATH (Debian: apt-get install gcc libc6-dev)"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    place = Path(tempfile.mkdtemp(prefix="cyx-gpus-"))
    for source, name in (("nvml.c", "libnvidia-ml.so.1"), ("cuda.c", "libcuda.so.1")):
        flags = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
        flags += ["-fvisibility=hidden", f"-Wl,-soname,{name}", "-o", str(place / name)]
        subprocess.run([compiler, *flags, str(HERE / source), "-lpthread"], check=True)
    return place


def load() -> None:
    """Make this process's pynvml use the stand-in: glibc finds it by its name from now on."""
    ctypes.CDLL(str(library() / "libnvidia-ml.so.1"))


def uuid(number: int) -> str:
    """Of GPU ``number``, as the stand-in has it by itself."""
    return f"GPU-{0x5A000000 + number:08x}-0000-4000-8000-{number:012x}"


@dataclass
class Host:
    """The GPUs of a stood-in host: `write` after a change."""

    path: Path
    gpus: int = 8
    lines: dict[str, str] = field(default_factory=dict)
    """What is not as by itself: ``{"gpu 3 used": "1024"}``."""
    more: list[str] = field(default_factory=list)
    """Lines that may come twice, such as of processes."""

    @property
    def env(self) -> dict[str, str]:
        """For a process that shall see these GPUs."""
        return {STATE: str(self.path), "LD_LIBRARY_PATH": str(library())}

    def set(self, **system: object) -> None:
        """``set(init_error=9)``"""
        self.lines |= {key: str(value) for key, value in system.items()}
        self.write()

    def gpu(self, number: int, **what: object) -> None:
        """``gpu(3, used=1024, lost=1)``"""
        self.lines |= {f"gpu {number} {key}": str(value) for key, value in what.items()}
        self.write()

    def process(self, number: int, pid: int, memory_mb: int | str, kind: str = "compute") -> None:
        """A process on a GPU, with its memory in use ('?': not told)."""
        self.more.append(f"gpu {number} {kind} {pid} {memory_mb}")
        used = int(self.lines.get(f"gpu {number} used", 0))
        self.gpu(number, used=used + (0 if memory_mb == "?" else int(memory_mb)))

    def idle(self, number: int) -> None:
        """No process and no memory in use."""
        self.more = [line for line in self.more if not line.startswith(f"gpu {number} co")]
        self.gpu(number, used=0)

    def mig(self, number: int, *profiles: tuple[str, int]) -> None:
        """MIG on, with instances: a profile and its MiB each; an empty list: none."""
        self.more = [line for line in self.more if f"gpu {number} instance" not in line]
        for at, (profile, memory) in enumerate(profiles):
            self.more.append(f"gpu {number} instance {at + 7} 0 {profile} {memory} 0")
        self.gpu(number, mig=1)

    def write(self) -> Host:
        """The file as it should be now, whole or not at all."""
        text = [f"gpus {self.gpus}", *(f"{key} {value}" for key, value in self.lines.items())]
        fresh = self.path.with_suffix(".new")
        fresh.write_text("\n".join([*text, *self.more]) + "\n")
        fresh.replace(self.path)
        return self
