"""The executor images, and the built-in runner in one: the same as natively, and confined."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from tasks.job import JobConfig
from tests.integration.engine.jobs import Jobs
from tests.support import dockerd, engine
from tests.support.runtimes import hear, soon
from worker.engine_sections import PullPolicy
from worker.node.paths import NodePaths
from worker.plan import Limits
from worker.runtimes.engine.errors import ImageForbidden, ImageUnavailable
from worker.runtimes.engine.images import ImageRules
from worker.sandbox.launch import container_plan
from worker.sandbox.references import placed
from worker.sandbox.selection import known_images, select_image

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

DIGITS = {
    "dataset_uri": "builtin:digits",
    "model_definition": {
        "layers": [{"type": "Dense", "units": 16}, {"type": "ReLU"}, {"type": "Dense", "units": 10}]
    },
    "epochs": 2,
    "seed": 7,
}


def lines(output: bytes) -> list[dict[str, Any]]:
    found = [line for line in output.decode().splitlines() if line.startswith("{")]
    return [json.loads(line) for line in found]


def natively(job: dict[str, Any], place: Path) -> list[dict[str, Any]]:
    encoded = base64.b64encode(json.dumps(job).encode()).decode()
    for name in ("checkpoints", "output"):
        (place / name).mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-m", "worker.runner", f"--job-config={encoded}"],
        cwd=dockerd.REPO,
        env={
            "PATH": os.defpath,
            "OMP_NUM_THREADS": "1",
            "CYXWIZ_JOB_ID": "job",
            "CYXWIZ_CHECKPOINTS": str(place / "checkpoints"),
            "CYXWIZ_OUTPUT": str(place / "output"),
        },
        capture_output=True,
        check=True,
    )
    return lines(done.stdout)


def test_digits_train_in_the_container_as_they_do_natively(jobs: Jobs, tmp_path: Path) -> None:
    image = engine.executor()
    job = JobConfig.parse({**DIGITS, "job_id": "digits"})
    blank = jobs.plan("")
    plan = container_plan(
        job=job,
        attempt=blank.attempt,
        number=1,
        image=image,
        paths=NodePaths(state_dir=jobs.places.state),
        grant=blank.grant,
        limits=Limits(memory_mb=1024, cpu_cores=1, shm_size_mb=64, pids=256, output_mb=256),
        data=None,
    )
    handle = jobs.runtime.start(plan, soon())
    jobs.places.release()
    heard = hear(handle, timeout=120)
    assert heard.exit is not None
    assert heard.exit.code == 0, heard.err[-2000:]
    inside = lines(heard.out)
    assert inside[-1]["type"] == "complete"
    assert inside[-1]["success"] is True
    model = plan.output / inside[-1]["model_path"].removeprefix("/job/output/")
    assert model.stat().st_uid == 1000
    outside = natively({**DIGITS, "job_id": "digits"}, tmp_path / "native")
    assert measures(inside) == measures(outside)
    assert len(measures(inside)) == 2
    handle.remove()


def measures(said: list[dict[str, Any]]) -> list[tuple[float, float]]:
    return [(one["loss"], one["accuracy"]) for one in said if one["type"] == "progress"]


def test_the_image_says_what_it_is(raw: docker.APIClient) -> None:
    found = raw.inspect_image(engine.executor())
    version = found["Config"]["Labels"]["org.cyxwiz.version"]
    assert found["Config"]["Labels"] == {
        "org.cyxwiz.contract": "1",
        "org.cyxwiz.flavour": "cpu",
        "org.cyxwiz.version": version,
        "org.opencontainers.image.licenses": "Apache-2.0",
        "org.opencontainers.image.title": "cyxwiz/executor",
        "org.opencontainers.image.version": version,
    }
    assert found["Config"]["User"] == "1000:1000"
    own = [tag for tag in found["RepoTags"] if tag.startswith("cyxwiz/")]  # others push it
    assert sorted(own) == [
        f"cyxwiz/executor:cpu-{version}",
        "cyxwiz/executor:cpu-latest",
    ]
    assert raw.inspect_image(f"cyxwiz/base:{version}")["Config"]["User"] == "1000:1000"


def test_the_recipe_of_the_gpu_flavours_builds(
    socket: Path, raw: docker.APIClient, tmp_path: Path
) -> None:
    """On the local base, and with few packages: only the builds of the vendors are left out."""
    few = tmp_path / "few.txt"
    few.write_text("tzdata\n")
    said = engine.build_images(socket, "--requirements", str(few), "cuda12", "cuda11", "rocm")
    for flavour in ("cuda12", "cuda11", "rocm"):
        assert f"cyxwiz/executor:{flavour}-latest" in said
        labels = raw.inspect_image(f"cyxwiz/executor:{flavour}-latest")["Config"]["Labels"]
        assert labels["org.cyxwiz.flavour"] == flavour


def test_what_the_engine_has_can_be_selected(jobs: Jobs) -> None:
    engine.executor()
    manager = jobs.runtime.manager
    assert manager.image_exists(engine.EXECUTOR)
    assert not manager.image_exists("cyxwiz/executor:nowhere")
    tags = [tag for image in manager.list_images("cyxwiz/executor:") for tag in image.tags]
    assert engine.EXECUTOR in tags
    repository = placed("cyxwiz/executor", "docker.io/cyxwiz").repository
    known = known_images(tags, repository)
    from tasks.choices import Device

    chosen = select_image(image=None, version=">=0.1", device=Device.CPU, known=known)
    assert jobs.runtime.images.present(chosen.reference).id  # type: ignore[union-attr]  # of Chosen


def rules(policy: PullPolicy = PullPolicy.NEVER, *allow: str) -> ImageRules:
    return ImageRules(registry="docker.io/cyxwiz", allow=allow or ("cyxwiz/*",), policy=policy)


def test_an_image_that_is_not_here_with_policy_never(jobs: Jobs) -> None:
    with pytest.raises(ImageUnavailable, match=r"pull_policy is never: docker pull cyxwiz/no"):
        jobs.runtime.prepare("cyxwiz/no:1", print)
    plan = jobs.plan("", image="cyxwiz/no:1")
    with pytest.raises(ImageUnavailable, match="is not on this node"):
        jobs.runtime.start(plan, soon())
    jobs.places.release()
    assert not plan.state.exists()


@pytest.mark.parametrize("image", ["python:3.11", "docker.io/cyxwiz/x", "evil/cyxwiz/x", "a b", ""])
def test_an_image_outside_the_allow_list_is_not_even_looked_for(jobs: Jobs, image: str) -> None:
    runtime = jobs.another(rules=rules(PullPolicy.ALWAYS))
    with pytest.raises(ImageForbidden):
        runtime.images.ensure(image, lambda _: pytest.fail("it was pulled"))


@pytest.fixture
def old(raw: docker.APIClient) -> Iterator[tuple[str, str]]:
    """Two executor images of a registry that no other test uses, made in the year 1."""
    tags = ("registry.example/old/executor:cpu-1", "registry.example/old/executor:cpu-2")
    for tag in tags:
        raw.commit(_blank(raw), *tag.rsplit(":", 1))
    yield tags
    for tag in tags:
        with contextlib.suppress(docker.errors.ImageNotFound):
            raw.remove_image(tag)


def _blank(raw: docker.APIClient) -> str:
    """A container that nobody starts, so that each image made of it has an id of its own."""
    name = f"blank-{os.urandom(4).hex()}"
    made: str = raw.create_container(engine.BASE, [name], name=name)["Id"]
    return made


@pytest.fixture
def keeps(jobs: Jobs, raw: docker.APIClient, old: tuple[str, str]) -> Iterator[Any]:
    """The image store of a node whose own images are those of `old`."""
    mine = ImageRules(registry="registry.example/old", allow=("cyxwiz/*",), policy=PullPolicy.NEVER)
    yield jobs.another(rules=mine).images
    for one in raw.containers(all=True, filters={"name": "blank-"}):
        raw.remove_container(one["Id"])


def test_images_that_no_job_has_used_for_long_are_removed(
    keeps: Any, old: tuple[str, str], raw: docker.APIClient
) -> None:
    first = raw.inspect_image(old[0])["Id"]
    now = time.time()
    used = {first: now - 50}.get
    day = 86_400.0
    assert keeps.clean(used=lambda one: used(one) or now, older_than=day, now=now) == []
    assert keeps.clean(used=lambda one: used(one) or now, older_than=10, now=now) == [old[0]]
    assert keeps.tags() == [old[1]]
    assert raw.images(engine.BASE), "what is not an executor image stays"


def test_for_want_of_room_the_longest_unused_go_first(keeps: Any, old: tuple[str, str]) -> None:
    now = time.time()
    ages = iter([7200.0, 9000.0])  # newest first, as engines list them
    enough = iter([False, True])
    removed = keeps.clean(
        used=lambda _: now - next(ages), older_than=1e9, enough_room=lambda: next(enough), now=now
    )
    assert len(removed) == 1
    left = keeps.tags()
    assert removed + left == list(old) or left + removed == list(old)
    # one that a job has used within the hour, or that is wanted, stays whatever the disk has
    stay = {"older_than": 1e9, "enough_room": lambda: False, "now": now}
    assert keeps.clean(used=lambda _: now - 60, **stay) == []
    wanted = [f"cyxwiz/executor:{left[0].rpartition(':')[2]}"]
    assert keeps.clean(used=lambda _: now - 7200, spare=wanted, **stay) == []


def test_a_retry_runs_the_image_of_the_first_attempt(
    keeps: Any, old: tuple[str, str], raw: docker.APIClient
) -> None:
    ran = raw.inspect_image(old[0])["Id"]
    raw.tag(old[1], *old[0].rsplit(":", 1))  # somebody moves the tag
    assert keeps.ensure("cyxwiz/executor:cpu-1", print).id != ran
    again = keeps.again("cyxwiz/executor:cpu-1", ran, print)
    assert again.id == ran
    assert keeps.again("cyxwiz/executor:cpu-1", "sha256:" + "0" * 64, print) is None


def test_preload_says_what_cannot_be_had_and_goes_on(jobs: Jobs) -> None:
    failed = jobs.runtime.images.preload(["cyxwiz/no:1", engine.BASE, "other/no:1"], print)
    assert [one.split(":")[0] for one in failed] == ["cyxwiz/no", "other/no"]
