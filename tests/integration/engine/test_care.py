"""What an agent does for its engine: sees it, sweeps, has images ready, outlives its absence."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.integration.engine.jobs import Jobs
from tests.support import engine
from tests.support.waiting import wait_until
from worker.config import NodeConfig, load
from worker.engines import Engines, SandboxLevel
from worker.node.engine_care import EngineCare
from worker.node.paths import NodePaths

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def config(root: Path, socket: Path, **sections: Any) -> NodeConfig:
    path = root / "server-node.yaml"
    docker_section = {"socket": str(socket), "pull_policy": "never", **sections.pop("docker", {})}
    node = {"name": "test-node", "state_dir": str(root / "state")}
    path.write_text(json.dumps({"node": node, "docker": docker_section, **sections}))
    return load(path, {})


def care(root: Path, socket: Path, **sections: Any) -> EngineCare:
    made = config(root, socket, **sections)
    NodePaths(state_dir=made.node.state_dir).create()
    return EngineCare(made, Engines(made, abandon_after=1), look_every=0.05, tidy_every=0.05)


def test_it_knows_the_engine_and_its_images(tmp_path: Path, socket: Path) -> None:
    image = engine.executor()
    facts = care(tmp_path, socket).look()
    assert (facts.state.name, facts.state.usable) == ("docker", True)
    assert facts.state.level is SandboxLevel.FULL
    assert facts.state.version.startswith("2")
    assert image in facts.images


def test_a_loosened_sandbox_has_no_level(tmp_path: Path, socket: Path) -> None:
    loose = {"security": {"no_network": False}}
    assert care(tmp_path, socket, docker=loose).look().state.level is SandboxLevel.NONE


@pytest.mark.parametrize(
    ("sections", "why"),
    [
        ({"docker": {"enabled": False}}, "docker.enabled is false"),
        ({"execution": {"mode": "native"}}, "execution.mode is native"),
        ({"docker": {"socket": "/nowhere.sock"}}, "there is no such socket"),
    ],
)
def test_without_an_engine_it_says_why(
    tmp_path: Path, socket: Path, sections: dict[str, Any], why: str
) -> None:
    facts = care(tmp_path, socket, **sections).look()
    assert not facts.state.usable
    assert why in facts.state.reason
    assert facts.images == ()


def test_it_outlives_an_engine_that_is_away_and_finds_it_again(
    tmp_path: Path, socket: Path
) -> None:
    link = tmp_path / "link.sock"
    looking = care(tmp_path, link)
    looking.start()
    try:
        wait_until(lambda: looking.facts.state.reason, what="it sees that there is none")
        link.symlink_to(socket)
        wait_until(lambda: looking.facts.state.usable, what="it finds the engine")
        link.unlink()
        wait_until(lambda: not looking.facts.state.usable, what="it sees that it is gone")
    finally:
        looking.stop()


def test_it_sweeps_what_no_attempt_has(
    tmp_path: Path, socket: Path, raw: docker.APIClient, jobs: Jobs
) -> None:
    handle = jobs.start("import time; time.sleep(1000)")
    (shown,) = jobs.containers()
    labels = raw.inspect_container(shown)["Config"]["Labels"]
    state = tmp_path / "state" / "attempts" / "gone~1"
    raw.create_container(engine.BASE, ["x"], labels={**labels, "org.cyxwiz.state": str(state)})
    tidying = care(tmp_path, socket)
    tidying.tidy()
    assert len(jobs.containers()) == 2, "the other was made just now: somebody may be at it"
    tidying.tidy(time.time() + 120)
    assert jobs.containers() == [shown], "this one belongs to an attempt"
    handle.fence()


def test_it_removes_images_that_it_pulled_and_nobody_uses(
    tmp_path: Path, socket: Path, raw: docker.APIClient
) -> None:
    tags = ("cyxwiz/executor:cpu-0.0.1", "cyxwiz/executor:cpu-0.0.2")
    for tag in tags:
        name = f"care-{os.urandom(4).hex()}"
        made = raw.create_container(engine.BASE, [name], name=name)["Id"]
        raw.commit(made, *tag.rsplit(":", 1))
        raw.remove_container(made)
    tidying = care(tmp_path, socket, docker={"preload_images": [tags[1]]})
    marks = Engines(config(tmp_path, socket), abandon_after=1).runtime().images.marks
    for tag in tags:
        marks.pulled(raw.inspect_image(tag)["Id"])
    tidying.tidy(time.time() + 31 * 86_400)
    assert raw.images(tags[0]) == []
    assert raw.images(tags[1]), "it is to be had ready"
    assert raw.images(engine.BASE), "this node has not pulled it"
    raw.remove_image(tags[1])


def test_images_are_had_ready_but_for_devices_that_are_not_there(
    tmp_path: Path, socket: Path
) -> None:
    image = engine.executor()
    names = ["cyxwiz/executor:cuda12-latest", image, "cyxwiz/executor:cpu-0.0.0"]
    failed = care(tmp_path, socket, docker={"preload_images": names}).preload()
    assert [one.partition(": ")[0] for one in failed] == ["cyxwiz/executor:cpu-0.0.0"]
