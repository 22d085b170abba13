"""The native runtime, by running something: keeper, pidfds and limits are there or they are not."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tasks.errors import CyxWizError
from worker.admission import confinement
from worker.cli.checks.base import Check, Situation, blocks, missing, ok
from worker.plan import AttemptId, ExitStatus, Grant, LaunchPlan, Limits
from worker.runtimes import native_runtime
from worker.runtimes.base import Chunk

_WITHIN_S: Final = 20.0
_WORD: Final = "a native job ran"


def check_native(situation: Situation) -> Check:
    """Run one attempt under a keeper, in a directory that is removed again."""
    interpreter = situation.config.native.interpreter or Path(sys.executable)
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="cyxwiz-doctor-") as directory:
            exit_, said = _attempt(Path(directory), interpreter)
    except (CyxWizError, OSError) as error:
        return _broken(situation, str(error))
    if exit_ is None:
        return _broken(situation, f"it did not end within {_WITHIN_S:.0f} s")
    if exit_.code != 0 or _WORD not in said:
        how = exit_.error or f"exit code {exit_.code}, signal {exit_.signal}"
        return _broken(situation, f"{interpreter}: {how}: {said.strip()[-300:]}")
    took = (time.monotonic() - began) * 1000
    return ok("native jobs", f"a job ran under a keeper with {interpreter} ({took:.0f} ms)")


def _broken(situation: Situation, why: str) -> Check:
    blocked = not confinement(situation.config, situation.engine()).containers
    return (blocks if blocked else missing)(
        "native jobs",
        "a job under a keeper did not run",
        why=why,
        todo="check native.interpreter, and that this is Linux 5.3 or newer with /proc; in a "
        "container: that it may use pidfd_open and prctl",
    )


def _attempt(root: Path, interpreter: Path) -> tuple[ExitStatus | None, str]:
    native = native_runtime(state_root=root, abandon_after=5.0)
    try:
        native.prepare(None, lambda detail: None)
        until = time.monotonic() + _WITHIN_S
        handle = native.start(_plan(root, interpreter), until)
        try:
            said = bytearray()
            while time.monotonic() < until:
                item = handle.read(0.5)
                if isinstance(item, ExitStatus):
                    return item, said.decode(errors="replace")
                if isinstance(item, Chunk):
                    handle.ack(item.stream, item.offset + len(item.data))
                    said += item.data  # of both streams: one that fails says why on stderr
            return None, said.decode(errors="replace")
        finally:
            handle.remove()
    finally:
        native.close()


def _plan(root: Path, interpreter: Path) -> LaunchPlan:
    attempt = AttemptId(job_id="doctor", fence=1)
    return LaunchPlan(
        attempt=attempt,
        argv=(str(interpreter), "-c", f"print({_WORD!r})"),
        env={"PATH": os.defpath},
        data=None,
        checkpoints=root / "checkpoints",
        output=root / "output",
        scratch=root / "work" / str(attempt),
        state=root / "attempts" / str(attempt),
        limits=Limits(memory_mb=512, pids=16),
        grant=Grant(slot="doctor"),
    )
