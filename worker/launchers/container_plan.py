"""From a job to the plan of one attempt in a container: the counterpart of `native_plan`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tasks.choices import Sandbox
from worker.launchers import Asked, Picked
from worker.node.paths import NodePaths
from worker.plan import LaunchPlan, Mount
from worker.sandbox import profile
from worker.store.code import script_argv

PYTHON: Final = "python3"
"""As an image has it on its PATH."""
RUNNER: Final = "worker.runner"
PROOF: Final = "worker.runner.proof"
TARGET_CODE: Final = Path("/job/code")


def container_plan(asked: Asked, picked: Picked, paths: NodePaths) -> LaunchPlan:
    """What a container runtime needs to start this attempt with the image that was picked, but for
    its secrets.

    The environment is the job's and what the contract promises, and nothing of the node's; what
    the image sets (its PATH, where its packages are) stays.
    """
    job, attempt = asked.job, asked.attempt
    encoded = asked.wire
    argv, code_mount = _program(asked, encoded)
    if asked.grant.devices and job.image is None:  # another's image need not have Python
        argv = (PYTHON, "-S", "-m", PROOF, "--", *argv)
    return LaunchPlan(
        attempt=attempt,
        argv=argv,
        env={
            **_environment(asked, encoded),
            **({"CYXWIZ_DATA": profile.TARGET_DATA} if asked.data is not None else {}),
            **({"CYXWIZ_CODE": str(TARGET_CODE)} if asked.code is not None else {}),
        },
        data=asked.data,
        checkpoints=asked.checkpoints,
        output=paths.output(attempt),
        scratch=paths.scratch(attempt),
        state=paths.attempt(attempt),
        limits=asked.limits,
        grant=asked.grant,
        image=picked.reference,
        image_id=picked.id,
        gvisor=job.sandbox is Sandbox.GVISOR,
        mounts=code_mount,
        network=asked.network,
    )


def _program(asked: Asked, encoded: str) -> tuple[tuple[str, ...], tuple[Mount, ...]]:
    job, code = asked.job, asked.code
    if job.command is not None:
        return tuple(job.command), ()
    if code is None:
        return (PYTHON, "-m", RUNNER, f"--job-config={encoded}"), ()
    mount = Mount(source=code.root, target=str(TARGET_CODE), read_only=True)
    return script_argv(code, Path(PYTHON), job.args, TARGET_CODE), (mount,)


def _environment(asked: Asked, encoded: str) -> Mapping[str, str]:
    cores = asked.limits.cpu_cores
    threads = {"OMP_NUM_THREADS": str(max(1, int(cores)))} if cores else {}
    return {
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        **asked.job.env,
        **threads,
        "HOME": profile.TMP,
        "TMPDIR": profile.TMP,
        "CYXWIZ_JOB_ID": asked.attempt.job_id,
        "CYXWIZ_JOB_CONFIG": encoded,
        "CYXWIZ_CHECKPOINTS": profile.TARGET_CHECKPOINTS,
        "CYXWIZ_OUTPUT": profile.TARGET_OUTPUT,
    }
