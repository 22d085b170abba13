"""Whatever dies around a container: the job ends, never runs twice at once, and none is left."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Callable
from pathlib import Path

import docker
import pytest

from tasks import events
from tasks.control import cancel
from tasks.errors import JobRejected
from tasks.state import JobState
from tests.e2e.containers.traced import Traced
from tests.support import engine
from tests.support.contained import Contained
from tests.support.dockerd import Dockerd
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

Start = Callable[..., Contained]


def test_the_slot_worker_is_killed(start_contained: Start) -> None:
    node = start_contained(lease_ttl=60.0, lease_grace=30.0)
    traced = Traced(node)
    before = node.container(traced.job)["Id"]
    worker = node.node.worker()
    assert worker is not None
    os.kill(worker, signal.SIGKILL)
    node.cluster.wait_adopted(traced.job, timeout=60)
    assert [one["Id"] for one in node.containers()] == [before]
    assert traced.go() == "began ended "
    assert node.cluster.record(traced.job).attempt == 1
    node.wait_clean()


def test_a_node_is_stopped_and_started_again_while_a_container_runs(start_contained: Start) -> None:
    node = start_contained(lease_ttl=60.0, lease_grace=30.0)
    traced = Traced(node)
    before = node.container(traced.job)["Id"]
    assert node.node.leave(60) == 0
    assert [one["State"] for one in node.containers()] == ["running"]
    node.node.start()
    node.cluster.wait_adopted(traced.job, timeout=60)
    assert [one["Id"] for one in node.containers()] == [before]
    assert traced.go() == "began ended "
    node.wait_clean()


def test_the_keeper_is_killed(start_contained: Start) -> None:
    node = start_contained()
    traced = Traced(node)
    before = node.container(traced.job)["Id"]
    os.kill(node.node.keeper(traced.attempt), signal.SIGKILL)
    traced.wait_began(2)
    assert before not in [one["Id"] for one in node.containers()]
    assert traced.go() == "began began ended "
    node.wait_clean()


def test_the_next_attempt_runs_the_image_of_the_first(
    start_contained: Start, raw: docker.APIClient
) -> None:
    node = start_contained()
    mine = f"cyxwiz/pinned-{uuid.uuid4().hex[:8]}"
    raw.tag(engine.BASE, mine, "1")
    traced = Traced(node, image=f"{mine}:1")
    first = node.container(traced.job)["Image"]
    raw.tag(engine.EXECUTOR, mine, "1")  # somebody moves the tag
    os.kill(node.node.keeper(traced.attempt), signal.SIGKILL)
    traced.wait_began(2)
    assert raw.inspect_image(f"{mine}:1")["Id"] != first
    assert node.container(traced.job)["Image"] == first
    traced.go()
    node.wait_clean()
    raw.remove_image(f"{mine}:1")


def test_checkpoints_of_a_native_attempt_are_the_containers_too(start_contained: Start) -> None:
    node = start_contained()
    job_id = f"job-{uuid.uuid4().hex[:12]}"
    place = node.node.paths.job(job_id) / "checkpoints"
    (place / "inner").mkdir(mode=0o700, parents=True)
    for name in ("model.ckpt", "inner/part"):
        (place / name).write_text(name)
        (place / name).chmod(0o600)  # as a native attempt of this node leaves them
    (place / "away").symlink_to("/etc/passwd")
    owner = Path("/etc/passwd").stat().st_uid
    job = node.cluster.command(
        "import os\nos.chdir('/job/checkpoints')\n"
        "print(open('model.ckpt').read(), open('inner/part').read())\n"
        "os.remove('inner/part')",
        job_id=job_id,
    )
    job.get(timeout=60)
    assert node.cluster.logged(job) == ["model.ckpt inner/part"]
    assert Path("/etc/passwd").stat().st_uid == owner
    node.wait_clean()


def test_the_whole_node_is_killed_and_comes_back(start_contained: Start) -> None:
    node = start_contained()
    traced = Traced(node)
    before = node.container(traced.job)["Id"]
    node.node.kill_everything()
    os.kill(node.node.keeper(traced.attempt), signal.SIGKILL)
    node.node.start()
    traced.wait_began(2)
    assert before not in [one["Id"] for one in node.containers()]
    assert traced.go() == "began began ended "
    node.wait_clean()


def test_a_stop_of_the_node_hands_the_job_back(start_contained: Start) -> None:
    node = start_contained()
    traced = Traced(node)
    process = node.node.process
    assert process is not None
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: "node stopping: " in node.node.said, what="it drains")
    process.send_signal(signal.SIGTERM)  # the second one says: now
    process.wait(60)
    assert node.cluster.record(traced.job).state is JobState.QUEUED
    assert node.containers() == []
    node.cluster.forget_hand_back(traced.job)
    node.node.start()
    traced.wait_began(2)
    assert traced.go() == "began began ended "
    node.wait_clean()


def test_the_engine_is_killed_and_comes_back(start_contained: Start) -> None:
    with Dockerd(options=["--live-restore"], own_containerd=True) as own:
        engine.import_base(own.socket)
        node = start_contained(socket=own.socket, lease_ttl=20.0)
        traced = Traced(node, image=engine.BASE)
        before = node.container(traced.job)["Id"]
        own.kill()
        own.start()
        assert [one["Id"] for one in node.containers()] == [before]
        assert traced.go() == "began ended "
        node.wait_clean()


def test_a_container_ends_while_its_engine_is_away(start_contained: Start) -> None:
    """Its end is known all the same; and that its last words may be lost, which Docker's are."""
    with Dockerd(options=["--live-restore"], own_containerd=True) as own:
        engine.import_base(own.socket)
        node = start_contained(socket=own.socket, lease_ttl=20.0)
        traced = Traced(node, image=engine.BASE)
        pid = node.raw.inspect_container(node.containers()[0]["Id"])["State"]["Pid"]
        own.kill()
        (traced.place / "go").touch()
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), timeout=30, what="its end")
        own.start()
        assert traced.job.get(timeout=60)["attempt"] == 1
        said = node.cluster.logged(traced.job)
        assert said[0] == "at work"
        assert "the container engine was away" in said[-1]
        node.wait_clean()


def test_the_engine_is_stopped_and_takes_its_containers_along(start_contained: Start) -> None:
    with Dockerd() as own:
        engine.import_base(own.socket)
        node = start_contained(socket=own.socket, lease_ttl=20.0)
        traced = Traced(node, image=engine.BASE)
        own.stop()
        own.start()
        traced.wait_began(2)
        assert traced.go() == "began began ended "
        retried = [one.event for one in node.cluster.events(traced.job) if one.type == "retrying"]
        assert [one.reason for one in retried if isinstance(one, events.Retrying)] == [
            "engine_error"
        ]
        node.wait_clean()


def test_without_an_engine_a_node_reads_no_queue_and_a_forced_job_comes_to_nothing(
    start_contained: Start, tmp_path: Path
) -> None:
    node = start_contained(socket=tmp_path / "none.sock")
    job = node.cluster.command("print(1)")
    assert node.cluster.record(job).state is JobState.QUEUED
    forced = node.cluster.app.records
    node.deliver(job)
    wait_until(lambda: forced.get(job.id).reason == "sandbox_unavailable", what="it is handed back")
    assert forced.get(job.id).state is JobState.QUEUED
    assert "there is no such socket" in forced.get(job.id).message
    node.cluster.forget_hand_back(job)
    node.deliver(job)
    with pytest.raises(JobRejected, match="sandbox_unavailable"):
        job.get(timeout=30)


def test_without_an_engine_the_operator_may_let_jobs_run_natively(
    start_contained: Start, tmp_path: Path
) -> None:
    node = start_contained(
        socket=tmp_path / "none.sock", extra={"execution": {"allow_untrusted_native": True}}
    )
    job = node.cluster.command("print(1)")
    result = job.get(timeout=60)
    assert result["mode"] == "native"
    assert "there is no such socket" in result["warning"]
    admitted = [one.event for one in node.cluster.events(job) if one.type == "admitted"]
    assert isinstance(admitted[0], events.Admitted)
    assert admitted[0].sandbox_level == 0
    assert admitted[0].warning == result["warning"]


def test_what_is_loosened_is_in_the_record_and_the_level_is_gone(start_contained: Start) -> None:
    node = start_contained(extra={"docker": {"security": {"tmp_noexec": False}}})
    job = node.cluster.command(
        "import os, subprocess\n"
        "open('/tmp/x', 'w').write('#!/bin/sh\\necho ran')\n"
        "os.chmod('/tmp/x', 0o700)\n"
        "subprocess.run(['/tmp/x'], check=True)"
    )
    assert job.get(timeout=60)["mode"] == "docker"
    assert node.cluster.logged(job) == ["ran"]
    admitted = next(one.event for one in node.cluster.events(job) if one.type == "admitted")
    assert isinstance(admitted, events.Admitted)
    assert admitted.sandbox_level == 0
    assert node.cluster.record(job).sandbox["loosened"] == ["tmp_noexec"]


def test_a_cancelled_job_leaves_no_container(start_contained: Start) -> None:
    node = start_contained()
    traced = Traced(node)
    cancel(traced.job.id, "enough", app=node.cluster.app)
    assert node.cluster.wait_state(traced.job).state is JobState.CANCELLED
    node.wait_clean()


def test_a_default_of_0_is_the_cap(start_contained: Start) -> None:
    caps = {"max_limits": {"memory_mb": 256, "pids": 70}}
    zeros = {"default_limits": {"memory_mb": 0, "pids": 0}}
    node = start_contained(extra={"docker": {**caps, **zeros}})
    traced = Traced(node)
    host = node.container(traced.job)["HostConfig"]
    assert (host["Memory"], host["PidsLimit"]) == (256 << 20, 70)
    traced.go()
    node.wait_clean()
