"""A live node on rootless Podman with a slot of one GPU, by CDI."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.state import JobState
from tests.support import engine, podman
from tests.support.contained import Contained
from tests.support.gpus.cdi import specified
from tests.support.gpus.hooked import IMAGE, make_image
from tests.support.gpus.stand_in import Host, uuid
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.podman]

SHOWN = "import json, os; print(json.dumps(os.environ['CUDA_VISIBLE_DEVICES']))"


@pytest.fixture
def contained(tmp_path: Path) -> Iterator[Contained]:
    socket = podman.shared()
    make_image(socket)
    host = Host(tmp_path / "gpus", gpus=1).write()
    extra = {
        "execution": {"mode": "podman"},
        "podman": {"socket": str(socket), "accept_unenforced": ["memory"]},
        "docker": {"enabled": False},
        "slots": {"cpu": 0, "gpu": [[0]]},
    }
    with specified(tmp_path, gpus=1, library="/usr/lib"), RedisServer() as server:
        made = Contained.start(tmp_path, server.url, socket, extra=extra, env=host.env)
        try:
            yield made
        finally:
            made.close()


def test_a_job_gets_the_slots_gpu_and_proves_it_or_is_handed_back(contained: Contained) -> None:
    queues = json.loads(contained.node.paths.slot_queues("gpu0").read_text())
    log = contained.node.paths.slot_log("gpu0").read_text()
    assert any("cuda-x1" in name for name in queues), log
    job = contained.cluster.submit({"command": ["python3", "-c", SHOWN], "required_device": "cuda"})
    result = job.get(timeout=60)
    assert (result["mode"], list(result["gpus"])) == ("podman", [uuid(0)])
    assert [json.loads(line) for line in contained.cluster.logged(job)] == [uuid(0)]
    records = contained.cluster.app.records
    assert records.get(job.id).sandbox["image"] == IMAGE
    # an image of its own need not have what proves the grant, and this engine says nothing of it
    other = contained.cluster.submit(
        {"command": ["true"], "required_device": "cuda", "image": engine.BASE}
    )
    wait_until(
        lambda: records.get(other.id).reason == "no_device", timeout=30, what="it is handed back"
    )
    assert "does not say which GPUs a container got" in records.get(other.id).message
    assert records.get(other.id).state is JobState.QUEUED
    contained.wait_clean()
