"""GPUs in containers of rootless Podman, by CDI specifications of a stand-in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.integration.engine.jobs import Jobs
from tests.support import engine, podman
from tests.support.gpus.cdi import specified
from tests.support.gpus.stand_in import uuid
from tests.support.runtimes import engine_runtime_in, hear, soon
from worker.devices.inventory import Device
from worker.devices.visibility import environment
from worker.plan import LaunchPlan, Mount
from worker.runtimes.engine.errors import DevicesUnavailable
from worker.runtimes.engine.gpus import Via, cdi_name
from worker.runtimes.engine.runtime import EngineRuntime

pytestmark = [pytest.mark.integration, pytest.mark.podman, pytest.mark.timeout(300)]

PROOF = Path(__file__).resolve().parents[3] / "worker" / "runner" / "proof.py"
IN_CONTAINER = "/opt/stand-in"
SHOWN = """
import json, os
print(json.dumps({n: v for n, v in os.environ.items() if n.startswith(("CUDA", "NVIDIA"))}))
"""


@pytest.fixture
def cdi(tmp_path: Path) -> Iterator[None]:
    """Two devices by their UUIDs: each brings CUDA's library and shows itself alone."""
    podman.require()
    with specified(tmp_path, gpus=2, library=IN_CONTAINER):
        yield


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[EngineRuntime]:
    made = engine_runtime_in("podman", tmp_path / "state", podman.shared())
    yield made
    made.close()


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    """For its plans."""
    made = Jobs(tmp_path, podman.shared())
    yield made
    made.places.release()


def plan(jobs: Jobs, number: int, source: str = SHOWN) -> LaunchPlan:
    devices = [Device(uuid=uuid(number))]
    made = jobs.plan(source)
    return replace(
        made,
        argv=(engine.PYTHON, "-S", "/job/code/proof.py", "--", engine.PYTHON, "-S", "-c", source),
        env={"LD_LIBRARY_PATH": IN_CONTAINER},
        mounts=(Mount(source=PROOF.parent, target="/job/code", read_only=True),),
        grant=replace(
            made.grant,
            devices=tuple(one.uuid for one in devices),
            env=environment(devices),
            via=Via.CDI,
        ),
    )


def run(runtime: EngineRuntime, made: LaunchPlan) -> tuple[bytes, int | None, str]:
    handle = runtime.start(made, soon())
    try:
        heard = hear(handle, timeout=60)
        assert heard.exit is not None
        return heard.out, heard.exit.code, heard.err.decode()
    finally:
        handle.remove()


def test_case_15_two_jobs_on_two_gpus_see_one_each(
    cdi: None, runtime: EngineRuntime, jobs: Jobs
) -> None:
    assert runtime.device_ways([uuid(0)]) == (Via.CDI,)
    for number in range(2):
        out, code, errors = run(runtime, plan(jobs, number))
        assert code == 0, errors
        assert json.loads(out) == {
            "CUDA_VISIBLE_DEVICES": uuid(number),
            "NVIDIA_VISIBLE_DEVICES": "void",
        }


def test_case_15_one_that_got_another_gpu_fails(
    cdi: None, runtime: EngineRuntime, jobs: Jobs
) -> None:
    made = plan(jobs, 0)
    wrong = replace(made.grant, env={**made.grant.env, "CYXWIZ_DEVICES": uuid(1)})
    out, code, errors = run(runtime, replace(made, grant=wrong))
    assert (out, code) == (b"", 79)
    assert f"{uuid(1)} was granted" in errors


def test_case_15_one_that_silently_got_none_fails(
    cdi: None, runtime: EngineRuntime, jobs: Jobs
) -> None:
    """As Docker's API of Podman 4 does it: no device, and no error."""
    made = plan(jobs, 0)
    out, code, errors = run(runtime, replace(made, grant=replace(made.grant, devices=())))
    assert (out, code) == (b"", 79), errors


def test_case_15_a_device_that_no_specification_names_is_told(
    cdi: None, runtime: EngineRuntime, jobs: Jobs
) -> None:
    with pytest.raises(DevicesUnavailable, match=cdi_name(uuid(7))):
        runtime.start(plan(jobs, 7), soon())
    assert jobs.places.left_behind() == []
