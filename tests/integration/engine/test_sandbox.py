"""Every item of the sandbox, as the engine and the host show it; and what a difference means."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.integration.engine.jobs import LIMITS, Jobs, up
from tests.support import engine
from tests.support.runtimes import hear, soon
from worker.keeper import containers
from worker.runtimes.base import Stream
from worker.runtimes.engine.errors import EngineError, SandboxUnavailable
from worker.runtimes.engine.handle import EngineHandle
from worker.runtimes.engine.manager import ContainerManager
from worker.sandbox.profile import Profile

pytestmark = pytest.mark.integration

WAITS = "import signal; print('up', flush=True); signal.pause()"
WANTED = {
    "NetworkMode": "none",
    "ReadonlyRootfs": True,
    "CapDrop": ["ALL"],
    "CapAdd": [],
    "SecurityOpt": ["no-new-privileges"],
    "Privileged": False,
    "IpcMode": "private",
    "PidsLimit": 64,
    "Memory": 128 << 20,
    "MemorySwap": 128 << 20,
    "NanoCpus": 10**9,
    "ShmSize": 16 << 20,
    "Init": True,
    "AutoRemove": False,
    "OomScoreAdj": 500,
    "Tmpfs": {"/tmp": "rw,nosuid,nodev,noexec,size=64m,mode=1777"},
}


def test_docker_inspect_shows_every_item(jobs: Jobs, raw: docker.APIClient) -> None:
    handle = jobs.start(WAITS)
    hear(handle, until=up)
    [name] = jobs.containers()
    seen = raw.inspect_container(name)
    host = seen["HostConfig"]
    assert {key: host[key] for key in WANTED} == WANTED
    limits = {one["Name"]: one["Hard"] for one in host["Ulimits"]}
    largest = (LIMITS.memory_mb + 1) << 20
    assert limits == {"core": 0, "nofile": LIMITS.nofile, "fsize": largest}
    assert seen["Config"]["User"] == "1000:1000"
    assert seen["Config"]["Healthcheck"] == {"Test": ["NONE"]}
    mounts = {(one["Destination"], one["RW"], one["Propagation"]) for one in seen["Mounts"]}
    assert mounts == {("/job/checkpoints", True, "rprivate"), ("/job/output", True, "rprivate")}
    assert seen["Config"]["Labels"]["org.cyxwiz.attempt"] == str(handle.attempt)
    assert seen["Config"]["Labels"]["org.cyxwiz.node"] == "test-node"


def test_the_report_holds_what_was_seen_of_a_running_job(jobs: Jobs) -> None:
    handle = jobs.start(WAITS)
    report = handle.report
    assert report is not None
    seen = {one.item: one.seen for one in report.from_host}
    assert seen["uid"].split() == ["1000"] * 4
    assert seen["capabilities"] == "0000000000000000"
    assert (seen["no_new_privs"], seen["seccomp"]) == ("1", "2")
    assert (seen["memory"], seen["pids"], seen["cpu"]) == (str(128 << 20), "64", "1.00")
    assert (seen["root"], seen["network routes"], seen["writable mounts"]) == ("ro", "", "")
    assert (seen["/tmp"], seen["/dev/shm"]) == ("nodev,noexec,nosuid,65536k", "16384k")
    assert all(one.good for one in (*report.from_engine, *report.from_host))
    assert json.loads(json.dumps(report.for_record()))["seen"]["root"] == "ro"
    [again] = jobs.another().recover()
    assert isinstance(again, EngineHandle)
    assert again.report == report
    again.remove()


def test_inside_it_is_so_too(jobs: Jobs) -> None:
    heard, _ = jobs.run(
        "import os, resource\n"
        "status = open('/proc/self/status').read()\n"
        "caps = {line.split()[1] for line in status.splitlines() if line.startswith('Cap')}\n"
        "print(os.getuid(), os.getgid(), os.getgroups(), caps, os.getcwd(), os.environ['HOME'],\n"
        "      resource.getrlimit(resource.RLIMIT_CORE), sorted(os.listdir('/sys/class/net')))"
    )
    # interfaces that the kernel itself makes in each namespace are down and lead nowhere
    assert heard.out.startswith(b"1000 1000 [1000] {'0000000000000000'} /tmp /tmp (0, 0) ['")


def test_seccomp_refuses_what_the_engines_own_profile_does(jobs: Jobs) -> None:
    heard, _ = jobs.run(
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "print(libc.syscall(246, 0, 0, 0, 0), ctypes.get_errno())"  # kexec_load
    )
    assert heard.out == b"-1 1\n"


def test_an_options_difference_is_refused_before_the_start(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an engine that ignores what it cannot keep: it is asked, and does something else."""
    create = ContainerManager.create

    def forgetful(self: ContainerManager, name: str, config: dict[str, Any]) -> str:
        host = {**config["HostConfig"], "PidsLimit": 0, "ReadonlyRootfs": False}
        return create(self, name, {**config, "HostConfig": host})

    monkeypatch.setattr(ContainerManager, "create", forgetful)
    plan = jobs.plan("open('/job/output/ran', 'w')")
    with pytest.raises(SandboxUnavailable, match=r"ReadonlyRootfs: wanted True.*PidsLimit"):
        jobs.runtime.start(plan, soon())
    jobs.places.release()
    assert jobs.containers() == []
    assert not plan.state.exists()
    assert not plan.output.exists()


@pytest.mark.parametrize(
    ("does", "seen"),
    [
        (
            {"CapDrop": [], "SecurityOpt": [], "Memory": 0, "MemorySwap": 0},
            r"no_new_privs.*capabilities.*memory",
        ),
        ({"MemorySwap": -1}, r"memory: wanted 134217728, found 134217728 and swap"),
        (
            {"Tmpfs": {"/tmp": "rw,nosuid,nodev,noexec,size=1g,mode=1777"}, "ShmSize": 1 << 30},
            r"/tmp: wanted \S+,65536k, found \S+,1048576k; /dev/shm: wanted 16384k, found 1048576k",
        ),
    ],
    ids=["privileges", "swap", "sizes"],
)
def test_a_difference_on_the_host_is_refused(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch, does: dict[str, Any], seen: str
) -> None:
    """As an engine that says yes and does no: inspect is told what was asked for."""
    create, inspect = ContainerManager.create, ContainerManager.inspect
    asked: dict[str, Any] = {}

    def lying(self: ContainerManager, name: str, config: dict[str, Any]) -> str:
        asked.update(config["HostConfig"])
        return create(self, name, {**config, "HostConfig": {**asked, **does}})

    def covering(self: ContainerManager, container: str) -> dict[str, Any]:
        said = inspect(self, container)
        return {**said, "HostConfig": {**said["HostConfig"], **asked}}

    monkeypatch.setattr(ContainerManager, "create", lying)
    monkeypatch.setattr(ContainerManager, "inspect", covering)
    plan = jobs.plan(WAITS)
    with pytest.raises(SandboxUnavailable, match=seen):
        jobs.runtime.start(plan, soon())
    jobs.places.release()
    assert jobs.containers() == []


@pytest.mark.parametrize(
    ("item", "source", "said"),
    [
        ("read_only_root", "print(os.statvfs('/').f_flag & os.ST_RDONLY)", b"0\n"),
        ("no_network", "print(os.path.exists('/proc/self/net/dev'))", b"True\n"),
        ("drop_capabilities", "print('CapBnd:\\t00000000000000' in status)", b"False\n"),
        ("tmp_noexec", "print(os.statvfs('/tmp').f_flag & os.ST_NOEXEC)", b"0\n"),
    ],
)
def test_an_operator_may_loosen_single_items(
    jobs: Jobs, item: str, source: str, said: bytes
) -> None:
    profile = Profile(tmp_mb=64, **{item: False})
    assert profile.loosened == (item,)
    given = "import os; status = open('/proc/self/status').read()\n"
    handle = jobs.start(given + source, runtime=jobs.another(profile=profile))
    assert hear(handle).out == said
    assert handle.report is not None
    assert handle.report.for_record()["loosened"] == [item]


@contextmanager
def image(raw: docker.APIClient, changes: list[str]) -> Iterator[str]:
    """An image of the base, with these instructions of a Dockerfile."""
    made = raw.create_container(engine.BASE, ["true"])["Id"]
    tag = "cyxwiz/hostile:test"
    raw.commit(made, repository="cyxwiz/hostile", tag="test", changes="\n".join(changes))
    raw.remove_container(made)
    try:
        yield tag
    finally:
        raw.remove_image(tag, force=True)


def test_an_images_own_wishes_count_for_nothing(jobs: Jobs, raw: docker.APIClient) -> None:
    wishes = [
        "USER root",
        'ENTRYPOINT ["/bin/sh", "-c", "echo entered"]',
        "VOLUME /big /job/secret",
        "HEALTHCHECK --interval=1s CMD touch /big/x",
        "ENV NVIDIA_VISIBLE_DEVICES=all",
        "LABEL org.cyxwiz.node=other org.cyxwiz.attempt=mine",
        "WORKDIR /big",
    ]
    with image(raw, wishes) as tag:
        handle = jobs.start(
            "import os\n"
            "print(os.getuid(), os.environ['NVIDIA_VISIBLE_DEVICES'], os.getcwd())\n"
            "for place in ('/big', '/job/secret'):\n"
            "    try: open(place + '/x', 'w')\n"
            "    except OSError as error: print(error.errno, flush=True)\n"
            "__import__('signal').pause()",
            image=tag,
        )
        heard = hear(handle, until=lambda heard: heard.out.count(b"\n") >= 3)
        assert heard.out == b"1000 void /tmp\n30\n30\n"
        [name] = jobs.containers()
        seen = raw.inspect_container(name)
        assert seen["Config"]["Labels"]["org.cyxwiz.attempt"] == str(handle.attempt)
        assert "Health" not in seen["State"]
        assert [one for one in seen["Mounts"] if one["Type"] == "volume"] == []
        handle.remove()


def test_the_job_writes_the_node_deletes_and_nobody_else_looks(jobs: Jobs) -> None:
    handle = jobs.start(
        "import os\nos.umask(0)\n"
        "for at in ('/job/output', '/job/checkpoints'):\n"
        "    os.mkdir(at + '/deep'); open(at + '/deep/file', 'w').write('mine')\n"
        "    os.chmod(at + '/deep', 0)\n"
        "print('up', flush=True); __import__('signal').pause()"
    )
    hear(handle, until=up)
    plan_output = jobs.places.root / "output" / str(handle.attempt)
    kept = plan_output.stat()
    assert (kept.st_uid, kept.st_gid, kept.st_mode & 0o777) == (1000, 1000, 0o700)
    peek = subprocess.run(
        ["/bin/ls", str(plan_output)], user=1001, group=1001, extra_groups=[], capture_output=True
    )
    assert peek.returncode != 0
    handle.remove()
    assert (plan_output / "deep" / "file").read_text() == "mine"
    subprocess.run(["rm", "-r", str(plan_output)], check=True)


def test_a_link_where_a_directory_should_be_is_not_mounted(jobs: Jobs, tmp_path: Path) -> None:
    (tmp_path / "target").mkdir(mode=0o755)
    plan = jobs.plan(WAITS)
    plan.output.parent.mkdir(parents=True)
    plan.output.symlink_to(tmp_path / "target")
    with pytest.raises(Exception, match="output"):
        jobs.runtime.start(plan, soon())
    jobs.places.release()
    assert (tmp_path / "target").stat().st_uid == os.getuid()
    plan.output.unlink()


def test_exec_runs_beside_the_job_and_as_its_user(jobs: Jobs) -> None:
    handle = jobs.start(WAITS)
    hear(handle, until=up)
    command = handle.exec([engine.PYTHON, "-c", "import os; print(os.getuid()); exit(3)"])
    said = []
    while not isinstance(found := command.read(1), int):
        said += [found] if found else []
    assert (said, found) == ([(Stream.STDOUT, b"1000\n")], 3)
    command.close()


def test_a_dead_ones_container_is_in_nobodys_way(jobs: Jobs, raw: docker.APIClient) -> None:
    """A name that is taken by what an earlier start of the same attempt left."""
    from worker.runtimes.engine.settings import container_name

    plan = jobs.plan("print('here')")
    name = container_name(plan.attempt, plan.state)
    raw.create_container(engine.BASE, ["true"], name=name)
    handle = jobs.runtime.start(plan, soon())
    assert hear(handle).out == b"here\n"
    jobs.places.release()
    handle.remove()
    assert containers.read(plan.state) is None


def test_a_container_that_will_not_start_leaves_nothing(jobs: Jobs) -> None:
    jobs.runtime.prepare(engine.BASE, print)
    runtime = jobs.another(profile=Profile(runtime="nowhere"))
    with pytest.raises(EngineError, match="nowhere"):
        jobs.start("print(1)", runtime=runtime)
    jobs.places.release()
    assert jobs.containers() == []
