"""Device nodes in containers, as ROCm's GPUs are given: stand-ins in /dev that groups may open."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.choices import Device as Kind
from tests.integration.engine.jobs import Jobs, clean_jobs
from tests.support import engine
from tests.support.runtimes import hear, soon
from worker.devices.device_nodes import NodeUnusable, groups_for
from worker.devices.inventory import Device
from worker.devices.visibility import environment
from worker.plan import LaunchPlan, Mount
from worker.runtimes.engine.errors import DevicesUnavailable, EngineError
from worker.runtimes.engine.handle import EngineHandle

pytestmark = pytest.mark.integration

PROOF = Path(__file__).resolve().parents[3] / "worker" / "runner" / "proof.py"
FUSE = os.makedev(10, 229)
"""No container has it by itself, and whoever may open its node can."""
GROUP = 4242
SAYS = """
import os
print(sorted(set(os.getgroups()) - {1000}), sorted(n for n in os.listdir("/dev") if "-t-" in n))
"""
Make = Callable[..., str]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes nodes in /dev; they go with the test."""
    made: list[Path] = []

    def node(name: str, *, group: int = GROUP, mode: int = 0o660) -> str:
        path = Path(f"/dev/cyx-t-{name}-{os.getpid()}")
        try:
            os.mknod(path, stat.S_IFCHR | 0o600, FUSE)
        except PermissionError:
            pytest.skip("only root makes device nodes")
        made.append(path)
        os.chown(path, 0, group)
        path.chmod(mode)
        return str(path)

    yield node
    for path in made:
        path.unlink()


def plan(jobs: Jobs, *nodes: str) -> LaunchPlan:
    """A job that opens all its nodes before it begins, and says its groups and what it sees."""
    card = Device(uuid="card", kind=Kind.ROCM, nodes=nodes)
    made = jobs.plan(SAYS)
    return replace(
        made,
        argv=(engine.PYTHON, "-S", "/job/code/proof.py", "--", engine.PYTHON, "-S", "-c", SAYS),
        mounts=(Mount(source=PROOF.parent, target="/job/code", read_only=True),),
        grant=replace(made.grant, devices=("card",), env=environment([card]), nodes=nodes),
    )


def test_a_job_opens_the_nodes_of_its_grant_by_their_groups(jobs: Jobs, make: Make) -> None:
    nodes = (make("kfd"), make("render", group=GROUP + 1))
    make("other")
    handle = jobs.runtime.start(plan(jobs, *nodes), soon())
    jobs.places.release()
    heard = hear(handle, timeout=60)
    assert heard.exit is not None
    assert heard.exit.code == 0, heard.err.decode()
    names = sorted(Path(one).name for one in nodes)
    assert heard.out.decode().strip() == f"{[GROUP, GROUP + 1]} {names}", "these and no others"
    assert isinstance(handle, EngineHandle)
    assert handle.report is not None
    seen = {one.item: one for one in handle.report.from_host}
    if "groups" in seen:  # it may have ended before the host looked
        assert (seen["groups"].seen, seen["groups"].good) == (f"{GROUP} {GROUP + 1}", True)
    handle.remove()


def test_a_node_that_only_root_opens_is_given_to_nobody(jobs: Jobs, make: Make) -> None:
    for node, why in (
        (make("kfd", group=0), "GROUP=.render."),
        (make("none", mode=0o600), "for root alone"),
        ("/dev/cyx-t-nowhere", "is the driver loaded"),
        ("/dev/shm", "no device node"),
    ):
        with pytest.raises(DevicesUnavailable, match=why):
            jobs.runtime.start(plan(jobs, node), soon())
    jobs.places.release()


def test_which_groups_a_user_needs(make: Make) -> None:
    everybodys, a_groups = make("all", mode=0o666), make("group")
    assert groups_for([everybodys], 1000) == ()
    assert groups_for([everybodys, a_groups, a_groups], 1000) == (GROUP,)
    os.chown(a_groups, 1000, GROUP)
    assert groups_for([a_groups], 1000) == (), "it is its own"
    assert groups_for([a_groups], 1001) == (GROUP,)
    with pytest.raises(NodeUnusable):
        groups_for([make("writes", mode=0o620)], 1000)


@pytest.mark.podman
def test_podman_gives_nodes_that_everybody_opens_and_refuses_those_of_a_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with clean_jobs(tmp_path, "podman") as jobs:
        handle = jobs.runtime.start(plan(jobs, "/dev/full"), soon())
        heard = hear(handle, timeout=60)
        assert heard.exit is not None
        assert heard.exit.code == 0, heard.err.decode()
        handle.remove()
        from worker.runtimes.engine import starting

        monkeypatch.setattr(starting, "groups_for", lambda nodes, user: (GROUP,))
        with pytest.raises(EngineError, match=f"none of the host's groups.*{GROUP}"):
            jobs.runtime.start(plan(jobs, "/dev/full"), soon())
        jobs.places.release()
