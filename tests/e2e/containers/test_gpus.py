"""GPU slots whose jobs run in containers: read only what a probe has seen, give what was leased."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.state import JobState
from tests.support import engine
from tests.support.contained import Contained
from tests.support.gpus.hooked import IMAGE, HookedEngine
from tests.support.gpus.stand_in import Host, uuid
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until
from worker.node import slot_records

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

SHOWN = """
import json, os, pathlib, time
print(json.dumps(os.environ["CUDA_VISIBLE_DEVICES"]), flush=True)
while not pathlib.Path("/job/checkpoints/go").exists():
    time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def hooked() -> Iterator[HookedEngine]:
    with HookedEngine(gpus=2) as made:
        yield made


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "gpus", gpus=2).write()


@pytest.fixture
def start_on(tmp_path: Path, host: Host) -> Iterator[Callable[..., Contained]]:
    """Starts a node with two slots of one GPU each, on the engine at a socket."""
    started: list[Contained] = []
    extra = {"slots": {"cpu": 0, "gpu": [[0], [1]]}}
    with RedisServer() as server:

        def start(socket: Path, *, cuda: int = 12040) -> Contained:
            host.set(cuda=cuda)
            directory = tmp_path / "node-a"
            directory.mkdir()
            made = Contained.start(directory, server.url, socket, extra=extra, env=host.env)
            started.append(made)
            return made

        yield start
        for one in started:
            one.close()


def queues(contained: Contained, slot: str) -> list[str]:
    read = slot_records.queues(contained.node.paths, slot)
    return [name for name in read if name.startswith("work.")]


def test_two_sandboxed_jobs_on_two_gpus_see_one_each(
    hooked: HookedEngine, start_on: Callable[..., Contained]
) -> None:
    raw = engine.raw(hooked.socket)
    for tag in ("cuda12-2.0", "cuda11-1.0"):
        raw.tag(IMAGE, "cyxwiz/executor", tag)
    raw.close()
    contained = start_on(hooked.socket, cuda=11080)
    assert any("cuda-x1" in name for name in queues(contained, "gpu0"))
    command = {"command": ["python3", "-c", SHOWN], "required_device": "cuda"}
    jobs = [contained.cluster.submit(command) for _ in range(2)]
    got = {}
    for job in jobs:
        container = contained.container(job)
        got[job.id] = hooked.asked(container["Id"])
    assert sorted(got.values()) == [uuid(0), uuid(1)], "as it is recorded below the engine"
    for job in jobs:
        contained.cluster.wait_state(job, JobState.RUNNING)
        (contained.cluster.checkpoints(job) / "go").touch()
    for job in jobs:
        result = job.get(timeout=60)
        assert (result["mode"], list(result["gpus"])) == ("docker", [got[job.id]])
        sandbox = contained.cluster.record(job).sandbox
        assert sandbox["image"] == "cyxwiz/executor:cuda11-1.0", "the driver is of CUDA 11.8"
        (line,) = contained.cluster.logged(job)
        assert json.loads(line) == got[job.id]
    contained.wait_clean()


def test_a_slot_whose_gpu_was_taken_when_it_began_looks_again(
    hooked: HookedEngine, host: Host, start_on: Callable[..., Contained]
) -> None:
    host.process(0, 1, 4_000)  # of somebody else
    contained = start_on(hooked.socket)
    assert queues(contained, "gpu0") == []
    assert "no job's: 1" in contained.node.paths.slot_log("gpu0").read_text()
    host.idle(0)
    wait_until(lambda: queues(contained, "gpu0"), timeout=60, what="it has looked again")
    assert slot_records.unseen(contained.node.paths, "gpu0") is None
    contained.wait_clean()


def test_without_a_toolkit_a_gpu_slot_reads_no_queue_of_sandboxed_jobs(
    start_on: Callable[..., Contained],
) -> None:
    with HookedEngine(gpus=0) as plain:
        contained = start_on(plain.socket)
        assert queues(contained, "gpu0") == []
        said = contained.node.paths.slot_log("gpu0").read_text()
        assert "slot.devices_unseen" in said
        assert "could not select device driver" in said
        contained.wait_clean()
        contained.node.close()
