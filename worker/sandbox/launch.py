"""From a job to the plan of one attempt in a container: the counterpart of `worker.launch`."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tasks.choices import Sandbox
from tasks.job import JobConfig
from worker.node.paths import NodePaths
from worker.plan import AttemptId, Grant, LaunchPlan, Limits, Mount
from worker.sandbox import profile
from worker.store.code import Code, script_argv

PYTHON: Final = "python3"
"""As an image has it on its PATH."""
RUNNER: Final = "worker.runner"
PROOF: Final = "worker.runner.proof"
TARGET_CODE: Final = Path("/job/code")


def container_plan(
    *,
    job: JobConfig,
    attempt: AttemptId,
    number: int,
    image: str,
    image_id: str = "",
    paths: NodePaths,
    grant: Grant,
    limits: Limits,
    checkpoints: Path,
    data: Path | None,
    code: Code | None = None,
) -> LaunchPlan:
    """What a container runtime needs to start this attempt. ``number``: 1 for the first.
    ``image``, ``image_id``: see `LaunchPlan`.

    The environment is the job's and what the contract promises, and nothing of the node's; what
    the image sets (its PATH, where its packages are) stays.
    """
    place = paths.job(attempt.job_id)
    wire = {**job.to_wire(), "job_id": attempt.job_id, "attempt": number, "epochs": job.epochs}
    encoded = base64.b64encode(json.dumps(wire).encode()).decode("ascii")
    argv, code_mount = _program(job, code, encoded)
    if grant.devices and job.image is None:  # an image of somebody else's need not have Python
        argv = (PYTHON, "-S", "-m", PROOF, "--", *argv)
    return LaunchPlan(
        attempt=attempt,
        argv=argv,
        env={
            **_environment(job, attempt, limits, encoded),
            **({"CYXWIZ_DATA": profile.TARGET_DATA} if data is not None else {}),
            **({"CYXWIZ_CODE": str(TARGET_CODE)} if code is not None else {}),
        },
        data=data,
        checkpoints=checkpoints,
        output=place / f"output-{attempt.fence}",
        scratch=paths.scratch(attempt),
        state=paths.attempt(attempt),
        limits=limits,
        grant=grant,
        image=image,
        image_id=image_id,
        gvisor=job.sandbox is Sandbox.GVISOR,
        mounts=code_mount,
    )


def _program(
    job: JobConfig, code: Code | None, encoded: str
) -> tuple[tuple[str, ...], tuple[Mount, ...]]:
    if job.command is not None:
        return tuple(job.command), ()
    if code is None:
        return (PYTHON, "-m", RUNNER, f"--job-config={encoded}"), ()
    mount = Mount(source=code.root, target=str(TARGET_CODE), read_only=True)
    return script_argv(code, Path(PYTHON), TARGET_CODE), (mount,)


def _environment(
    job: JobConfig, attempt: AttemptId, limits: Limits, encoded: str
) -> Mapping[str, str]:
    threads = {"OMP_NUM_THREADS": str(max(1, int(limits.cpu_cores)))} if limits.cpu_cores else {}
    return {
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        **job.env,
        **threads,
        "HOME": profile.TMP,
        "TMPDIR": profile.TMP,
        "CYXWIZ_JOB_ID": attempt.job_id,
        "CYXWIZ_JOB_CONFIG": encoded,
        "CYXWIZ_CHECKPOINTS": profile.TARGET_CHECKPOINTS,
        "CYXWIZ_OUTPUT": profile.TARGET_OUTPUT,
    }
