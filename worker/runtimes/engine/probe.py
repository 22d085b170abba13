"""A probe: one container with the whole policy, looked at by the host and asked from inside."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from tasks.errors import CyxWizError
from worker.keeper.zygote import Zygote
from worker.plan import AttemptId, ExitStatus, Grant, LaunchPlan, Limits
from worker.runtimes.base import Chunk, Handle
from worker.runtimes.engine.errors import ImageForbidden, ImageUnavailable
from worker.runtimes.engine.handle import EngineHandle
from worker.runtimes.engine.runtime import EngineRuntime
from worker.runtimes.engine.settings import PROBES
from worker.sandbox.probed import Inside, Probed
from worker.sandbox.profile import LEAST_PIDS
from worker.sandbox.standins import CPU, LIMITS, MEMORY, PIDS

WITHIN_S: Final = 60.0
"""A probe that has not ended by then is given up."""
_LIMITS: Final = Limits(
    memory_mb=128, cpu_cores=1, shm_size_mb=16, pids=LEAST_PIDS, nofile=1024, output_mb=16
)
_PROGRAM: Final = Path(__file__).with_name("probe_program.py")
_LOOKED_AT: Final = 0.5
"""Seconds before the program begins: the host's look comes first."""


def probe(
    engine: EngineRuntime, images: Iterable[str], place: Path, *, within: float = WITHIN_S
) -> Probed:
    """Run one as ``engine`` would run a job; nothing is left. ``place``: a directory of the node's.

    ``images``: to be tried in this order, as the node's allow-list has them: the first that is
    there, and has a Python, is taken. Never raises: what goes wrong is told by `Probed.error`.
    """
    found: list[Probed] = []
    worker = threading.Thread(
        target=lambda: found.append(_probe(engine, list(images), place, within)),
        name="probe",
        daemon=True,  # an engine that never answers must not hold up the end of the node
    )
    worker.start()
    worker.join(within)
    return found[0] if found else _nothing("", f"it did not end within {within:g} s")


def _probe(engine: EngineRuntime, images: list[str], place: Path, within: float) -> Probed:
    # a state of its own: nobody's successor or sweep takes it for a job
    root = place / PROBES / f"{os.getpid()}-{time.monotonic_ns()}"
    settings = replace(engine.settings, state_root=root, accept_unenforced=frozenset(LIMITS))
    last = _nothing("", "there is no image here that the node may use")
    try:
        with Zygote() as zygote, contextlib.closing(engine.another(settings, zygote)) as runtime:
            for image in images:
                last = _try(runtime, image, root, within)
                if not last.error:
                    break
    except (CyxWizError, OSError) as error:
        last = _nothing("", str(error))
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return last


def _try(runtime: EngineRuntime, image: str, root: Path, within: float) -> Probed:
    try:
        handle = runtime.start(_plan(runtime, image, root), time.monotonic() + within)
    except (ImageForbidden, ImageUnavailable) as error:
        return _nothing(image, f"image {error}")
    except (CyxWizError, OSError) as error:
        return _nothing(image, str(error))
    try:
        said, end = _heard(handle, time.monotonic() + within)
        report = handle.report if isinstance(handle, EngineHandle) else None
    finally:
        handle.remove()
    inside = _understood(said)
    if inside.uid is None:
        how = end.error or f"exit code {end.code}, signal {end.signal}" if end else "it is silent"
        text = said.decode(errors="replace").strip()[-200:]
        return _nothing(image, f"its program did not run in image {image}: {how} {text}".strip())
    return Probed(
        image=image,
        limits={MEMORY: _LIMITS.memory_mb, PIDS: _LIMITS.pids, CPU: _LIMITS.cpu_cores},
        findings=report.from_host if report is not None else (),
        inside=inside,
    )


def _plan(runtime: EngineRuntime, image: str, root: Path) -> LaunchPlan:
    attempt = AttemptId(job_id="probe", fence=1)
    # where it is known that nothing bounds it, it is not let loose on the host's memory
    memory = _LIMITS.memory_mb if MEMORY in runtime.capabilities().enforces else 0
    source = _PROGRAM.read_text(encoding="utf-8")
    # gVisor's kernel dies where it may have no thread more, and would tell nothing after that
    pids = 0 if runtime.settings.profile.gvisor else _LIMITS.pids
    arguments = (pids, memory, _LOOKED_AT)
    return LaunchPlan(
        attempt=attempt,
        argv=("python3", "-I", "-S", "-c", source, *map(str, arguments)),
        env={},
        data=None,
        checkpoints=root / "checkpoints",
        output=root / "output",
        scratch=root / "scratch",
        state=root / "attempts" / str(attempt),
        limits=_LIMITS,
        grant=Grant(slot="probe0"),
        image=image,
    )


def _heard(handle: Handle, until: float) -> tuple[bytes, ExitStatus | None]:
    said = bytearray()
    while time.monotonic() < until:
        item = handle.read(0.5)
        if isinstance(item, ExitStatus):
            return bytes(said), item
        if isinstance(item, Chunk):
            handle.ack(item.stream, item.offset + len(item.data))
            said += item.data
    return bytes(said), None


def _understood(said: bytes) -> Inside:
    """Its lines, as far as they are what they should be: an image's Python may say other things."""
    found: dict[str, object] = {}
    for line in said.splitlines():
        with contextlib.suppress(ValueError):
            told = json.loads(line)
            if isinstance(told, dict):
                found.update(told)
    known: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in found.items()
        if name in Inside.__dataclass_fields__
    }
    return Inside(**known)


def _nothing(image: str, error: str) -> Probed:
    return Probed(image=image, limits={}, error=error)
