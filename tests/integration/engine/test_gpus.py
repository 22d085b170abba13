"""GPUs in containers, on a private Docker engine with a stand-in for NVIDIA's hook below it.

Cases 7 and 15 of the pool are here: what a container got, as it is recorded below the engine.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import docker
import pytest

from tests.integration.devices.node import Node, gone
from tests.integration.engine.jobs import LIMITS, Jobs
from tests.support import engine
from tests.support.gpus.hooked import HookedEngine
from tests.support.gpus.stand_in import uuid
from tests.support.runtimes import hear, soon
from tests.support.waiting import wait_until
from worker.devices.claims import DeviceBusy
from worker.devices.inventory import Device, StaticInventory
from worker.devices.visibility import environment
from worker.keeper import containers, lock
from worker.plan import AttemptId, Grant, LaunchPlan
from worker.runtimes.engine.errors import DevicesUnavailable
from worker.runtimes.engine.gpus import Via, ways

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

PROVED = (engine.PYTHON, "-S", "/job/code/proof.py", "--", engine.PYTHON, "-S", "-c")
PROOF = Path(__file__).resolve().parents[3] / "worker" / "runner" / "proof.py"
SHOWN = """
import json, os
print(json.dumps({n: v for n, v in os.environ.items() if n.startswith(("CUDA", "NVIDIA"))}))
"""


@pytest.fixture(scope="module")
def hooked() -> Iterator[HookedEngine]:
    with HookedEngine(gpus=4) as made:
        yield made


@pytest.fixture
def gpu_jobs(hooked: HookedEngine, tmp_path: Path) -> Iterator[Jobs]:
    made = Jobs(tmp_path, hooked.socket)
    yield made
    made.close()
    assert made.containers() == []


def plan(jobs: Jobs, *numbers: int, source: str = SHOWN, **differs: object) -> LaunchPlan:
    """A job with the GPUs of these numbers, which proves that it sees them."""
    from worker.plan import Mount

    devices = [Device(uuid=uuid(number)) for number in numbers]
    made = jobs.plan(source)
    return replace(
        made,
        argv=(*PROVED, source),
        env={"LD_LIBRARY_PATH": "/usr/lib/x86_64-linux-gnu:/usr/lib/aarch64-linux-gnu:/usr/lib"},
        mounts=(Mount(source=PROOF.parent, target="/job/code", read_only=True),),
        grant=replace(
            made.grant,
            devices=tuple(one.uuid for one in devices),
            env=environment(devices),
            **differs,  # type: ignore[arg-type]  # a test's own keywords
        ),
    )


def run(jobs: Jobs, made: LaunchPlan) -> tuple[dict[str, str], int | None, str, str]:
    """What the job said of its environment, its exit code, its errors and its container's id."""
    handle = jobs.runtime.start(made, soon())
    jobs.places.release()
    try:
        noted = containers.read(made.state)
        assert noted is not None
        container = jobs.runtime.manager.inspect(noted.name)["Id"]
        heard = hear(handle, timeout=60)
        assert heard.exit is not None
        shown = json.loads(heard.out) if heard.out else {}
        return shown, heard.exit.code, heard.err.decode(), container
    finally:
        handle.remove()


def test_case_15_two_jobs_on_two_gpus_see_one_each(hooked: HookedEngine, gpu_jobs: Jobs) -> None:
    for number in (1, 3):
        shown, code, errors, container = run(gpu_jobs, plan(gpu_jobs, number))
        assert code == 0, errors
        assert hooked.asked(container) == uuid(number), "as it is recorded below the engine"
        assert shown["NVIDIA_VISIBLE_DEVICES"] == shown["CUDA_VISIBLE_DEVICES"] == uuid(number)


def test_case_15_a_job_with_two_gpus_sees_both(hooked: HookedEngine, gpu_jobs: Jobs) -> None:
    _, code, errors, container = run(gpu_jobs, plan(gpu_jobs, 0, 2))
    assert code == 0, errors
    assert hooked.asked(container) == f"{uuid(0)},{uuid(2)}"


def test_case_15_a_container_that_got_another_gpu_fails_its_job(
    hooked: HookedEngine, gpu_jobs: Jobs
) -> None:
    made = plan(gpu_jobs, 1)
    wrong = replace(made.grant, env={**made.grant.env, "CYXWIZ_DEVICES": uuid(2)})
    shown, code, errors, _ = run(gpu_jobs, replace(made, grant=wrong))
    assert (shown, code) == ({}, 79)
    assert f"{uuid(2)} was granted" in errors


def test_case_15_a_device_that_is_not_there_is_told_and_nothing_is_left(
    hooked: HookedEngine, gpu_jobs: Jobs
) -> None:
    with pytest.raises(DevicesUnavailable):
        gpu_jobs.runtime.start(plan(gpu_jobs, 9), soon())
    gpu_jobs.places.release()
    assert gpu_jobs.places.left_behind() == []


def test_case_15_without_a_toolkit_the_error_is_classified_and_nothing_is_left(
    jobs: Jobs,
) -> None:
    for via in (Via.REQUEST, Via.CDI, Via.RUNTIME):
        with pytest.raises(DevicesUnavailable):
            jobs.runtime.start(plan(jobs, 0, via=via), soon())
        jobs.places.release()
    assert jobs.places.left_behind() == []


def test_case_15_a_job_without_a_gpu_gets_none_whatever_its_image_says(
    hooked: HookedEngine, gpu_jobs: Jobs
) -> None:
    raw: docker.APIClient = engine.raw(hooked.socket)
    raw.import_image(
        src=_tar(raw), repository="cyxwiz/greedy", changes=["ENV NVIDIA_VISIBLE_DEVICES=all"]
    )
    raw.close()
    made = gpu_jobs.plan(SHOWN, image="cyxwiz/greedy:latest")
    asked = {"NVIDIA_VISIBLE_DEVICES": "all", "CUDA_VISIBLE_DEVICES": "0"}
    made = replace(made, env=asked, grant=replace(made.grant, env=environment([])))
    shown, code, errors, container = run(gpu_jobs, made)
    assert code == 0, errors
    assert shown == {"NVIDIA_VISIBLE_DEVICES": "void", "CUDA_VISIBLE_DEVICES": ""}
    assert not (hooked.records / f"{container}.json").exists(), "the hook was not even called"


def _tar(raw: docker.APIClient) -> str:
    """`BASE` as a tar of its files."""
    container = raw.create_container(engine.BASE, ["true"])["Id"]
    path = Path(tempfile.mkdtemp()) / "base.tar"
    with path.open("wb") as out:
        for piece in raw.export(container):
            out.write(piece)
    raw.remove_container(container)
    return str(path)


def test_ways_to_ask_are_tried_in_order() -> None:
    cdi = {"DiscoveredDevices": [{"Source": "cdi", "ID": f"nvidia.com/gpu={uuid(0)}"}]}
    assert ways(cdi, [uuid(0)]) == (Via.CDI, Via.REQUEST)
    assert ways(cdi, [uuid(0), uuid(1)]) == (Via.REQUEST,)
    assert ways({"Runtimes": {"nvidia": {}}}, [uuid(0)]) == (Via.REQUEST, Via.RUNTIME)


# --- case 7: the holder of a container dies


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A pool of two devices beside an engine."""
    devices = [Device(uuid=uuid(n), memory_mb=80_000, tells_processes=False) for n in range(2)]
    made = Node(tmp_path, inventory=StaticInventory(devices))
    yield made
    made.close()


def started(node: Node, jobs: Jobs) -> LaunchPlan:
    """A container that holds both devices and has no supervisor any more."""
    attempt = AttemptId(job_id="held", fence=1)
    held = node.take(2, attempt=str(attempt))
    grant = Grant(slot="gpu0-1", fds=held.grant.fds)
    made = replace(
        jobs.plan("import time; time.sleep(600)", limits=LIMITS),
        attempt=attempt,
        state=node.attempts / str(attempt),
        grant=grant,
    )
    handle = jobs.runtime.start(made, soon())
    held.release()
    jobs.places.release()
    handle.detach()
    return made


def test_case_07_a_container_without_a_keeper_is_settled_first(jobs: Jobs, node: Node) -> None:
    made = started(node, jobs)
    record = lock.read(made.state)
    assert record is not None
    with pytest.raises(DeviceBusy, match="held by held~1"):
        node.take(2)
    os.kill(record.pid, signal.SIGKILL)
    with node.take(2, timeout=20):
        assert gone(record.job)
        assert jobs.containers() == []


def test_case_07_while_its_engine_is_silent_the_devices_are_quarantined(
    jobs: Jobs, node: Node
) -> None:
    made = started(node, jobs)
    record = lock.read(made.state)
    noted = containers.read(made.state)
    assert record is not None
    assert noted is not None
    # from now on nobody answers where the note says that the engine is
    containers.write(made.state, replace(noted, socket=str(node.root / "nobody.sock")))
    os.kill(record.pid, signal.SIGKILL)
    wait_until(lambda: gone(record.pid))
    with pytest.raises(DeviceBusy, match=r"quarantined: the container .* its engine is silent"):
        node.take(2, timeout=4)
    shown = node.pool().state().devices
    assert all(one.held[0].attempt == "held~1" for one in shown)
    containers.write(made.state, noted)
    with node.take(2, timeout=20):
        assert jobs.containers() == []
