"""From a job and a node's configuration to the plan of one native attempt.

A job gets its configuration in ``CYXWIZ_JOB_CONFIG`` (base64 of JSON); the built-in runner gets
it as ``--job-config=`` too. A `command` runs as it stands: an argument that its author did not
write could only break it.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tasks.job import JobConfig
from worker.config import NodeConfig
from worker.node.paths import NodePaths
from worker.plan import AttemptId, Grant, LaunchPlan, Limits, Mount
from worker.store.code import Code, script_argv

_RUNNER: Final = "worker.runner"
_HOME_OF_RUNNER: Final = Path(__file__).resolve().parent.parent
_PROOF: Final = Path(__file__).resolve().parent / "runner" / "proof.py"


def native_plan(
    *,
    job: JobConfig,
    attempt: AttemptId,
    number: int,
    config: NodeConfig,
    paths: NodePaths,
    grant: Grant,
    limits: Limits,
    checkpoints: Path,
    data: Path | None,
    code: Code | None = None,
    environ: Mapping[str, str] = os.environ,
) -> LaunchPlan:
    """What the native runtime needs to start this attempt. ``number``: 1 for the first."""
    interpreter = config.native.interpreter or Path(sys.executable)
    place = paths.job(attempt.job_id)
    scratch = paths.scratch(attempt)
    output = place / f"output-{attempt.fence}"
    wire = {**job.to_wire(), "job_id": attempt.job_id, "attempt": number, "epochs": job.epochs}
    encoded = base64.b64encode(json.dumps(wire).encode()).decode("ascii")
    allowed = {name: environ[name] for name in config.native.env_allow if name in environ}
    env = {
        **allowed,
        # `python3` means the node's interpreter, which has the frameworks; a shim costs 60 ms
        "PATH": f"{interpreter.parent}{os.pathsep}{allowed.get('PATH', os.defpath)}",
        "PYTHONUNBUFFERED": "1",
        **job.env,
        **({"OMP_NUM_THREADS": str(max(1, int(limits.cpu_cores)))} if limits.cpu_cores else {}),
        **grant.env,
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "CYXWIZ_JOB_ID": attempt.job_id,
        "CYXWIZ_JOB_CONFIG": encoded,
        "CYXWIZ_CHECKPOINTS": str(checkpoints),
        "CYXWIZ_OUTPUT": str(output),
        **({"CYXWIZ_DATA": str(data)} if data is not None else {}),
    }
    if job.command is not None:
        argv = tuple(job.command)
    elif code is not None:
        argv = script_argv(code, interpreter)
        env["CYXWIZ_CODE"] = env["PYTHONPATH"] = str(code.root)
        env["PYTHONDONTWRITEBYTECODE"] = "1"  # the code is shared, and nobody's to write to
    else:
        argv = (str(interpreter), "-m", _RUNNER, f"--job-config={encoded}")
        env["PYTHONPATH"] = str(_HOME_OF_RUNNER)
    if grant.devices:
        argv = (str(interpreter), "-S", str(_PROOF), "--", *argv)
    return LaunchPlan(
        attempt=attempt,
        argv=argv,
        env=env,
        data=data,
        checkpoints=checkpoints,
        output=output,
        scratch=scratch,
        state=paths.attempt(attempt),
        limits=limits,
        grant=grant,
        mounts=(
            (Mount(source=code.root, target="/job/code", read_only=True),)
            if code is not None
            else ()
        ),
    )
