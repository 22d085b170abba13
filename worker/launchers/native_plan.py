"""From a job and a node's configuration to the plan of one native attempt.

A job gets its configuration in ``CYXWIZ_JOB_CONFIG`` (base64 of JSON); the built-in runner gets
it as ``--job-config=`` too. A `command` runs as it stands: an argument that its author did not
write could only break it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from worker.config import NodeConfig
from worker.launchers import Asked
from worker.node.paths import NodePaths
from worker.plan import LaunchPlan, Mount
from worker.store.code import script_argv

_RUNNER: Final = "worker.runner"
_WORKER: Final = Path(__file__).resolve().parents[1]
_HOME_OF_RUNNER: Final = _WORKER.parent
_PROOF: Final = _WORKER / "runner" / "proof.py"


def native_plan(
    asked: Asked,
    config: NodeConfig,
    paths: NodePaths,
    environ: Mapping[str, str] = os.environ,
) -> LaunchPlan:
    """What the native runtime needs to start this attempt, but for its secrets."""
    job, attempt, code = asked.job, asked.attempt, asked.code
    interpreter = config.native.interpreter or Path(sys.executable)
    scratch = paths.scratch(attempt)
    output = paths.output(attempt)
    encoded = asked.wire
    cores = asked.limits.cpu_cores
    allowed = {name: environ[name] for name in config.native.env_allow if name in environ}
    env = {
        **allowed,
        # `python3` means the node's interpreter, which has the frameworks; a shim costs 60 ms
        "PATH": f"{interpreter.parent}{os.pathsep}{allowed.get('PATH', os.defpath)}",
        "PYTHONUNBUFFERED": "1",
        **job.env,
        **({"OMP_NUM_THREADS": str(max(1, int(cores)))} if cores else {}),
        **asked.grant.env,
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "CYXWIZ_JOB_ID": attempt.job_id,
        "CYXWIZ_JOB_CONFIG": encoded,
        "CYXWIZ_CHECKPOINTS": str(asked.checkpoints),
        "CYXWIZ_OUTPUT": str(output),
        **({"CYXWIZ_DATA": str(asked.data)} if asked.data is not None else {}),
    }
    if job.command is not None:
        argv = tuple(job.command)
    elif code is not None:
        argv = script_argv(code, interpreter, job.args)
        env["CYXWIZ_CODE"] = env["PYTHONPATH"] = str(code.root)
        env["PYTHONDONTWRITEBYTECODE"] = "1"  # the code is shared, and nobody's to write to
    else:
        argv = (str(interpreter), "-m", _RUNNER, f"--job-config={encoded}")
        env["PYTHONPATH"] = str(_HOME_OF_RUNNER)
    if asked.grant.devices:
        argv = (str(interpreter), "-S", str(_PROOF), "--", *argv)
    return LaunchPlan(
        attempt=attempt,
        argv=argv,
        env=env,
        data=asked.data,
        checkpoints=asked.checkpoints,
        output=output,
        scratch=scratch,
        state=paths.attempt(attempt),
        limits=asked.limits,
        grant=asked.grant,
        mounts=(
            (Mount(source=code.root, target="/job/code", read_only=True),)
            if code is not None
            else ()
        ),
    )
