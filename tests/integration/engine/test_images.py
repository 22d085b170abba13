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
from tests.integration.runner.runs import torch_python
from tests.support import engine
from tests.support.guard import REPO
from tests.support.runtimes import hear, soon
from worker.engine_sections import PullPolicy
from worker.launchers import Asked, Picked
from worker.launchers.container_plan import container_plan
from worker.node.paths import NodePaths
from worker.plan import Limits
from worker.runtimes.engine.errors import ImageForbidden, ImageUnavailable
from worker.runtimes.engine.images import ImageRules
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
CONVOLUTION = {
    **DIGITS,
    "model_definition": {
        "input_shape": [8, 8, 1],
        "layers": [
            {"type": "Conv2D", "filters": 4, "kernel_size": 3, "activation": "ReLU"},
            {"type": "Flatten"},
            {"type": "Dense", "units": 10},
        ],
    },
}


def lines(output: bytes) -> list[dict[str, Any]]:
    found = [line for line in output.decode().splitlines() if line.startswith("{")]
    return [json.loads(line) for line in found]


def natively(
    job: dict[str, Any], place: Path, python: str = sys.executable
) -> list[dict[str, Any]]:
    encoded = base64.b64encode(json.dumps(job).encode()).decode()
    for name in ("checkpoints", "output"):
        (place / name).mkdir(parents=True)
    done = subprocess.run(
        [python, "-m", "worker.runner", f"--job-config={encoded}"],
        cwd=REPO,
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


def trained(jobs: Jobs, image: str, given: dict[str, Any]) -> list[dict[str, Any]]:
    """What a job says that trains in a container of ``image``, and leaves a model of its user's."""
    blank = jobs.plan("")
    plan = container_plan(
        Asked(
            job=JobConfig.parse({**given, "job_id": "digits"}),
            attempt=blank.attempt,
            number=1,
            grant=blank.grant,
            limits=Limits(memory_mb=1024, cpu_cores=1, shm_size_mb=64, pids=256, output_mb=256),
            checkpoints=jobs.places.state / "checkpoints",
            data=None,
            code=None,
        ),
        Picked(reference=image),
        NodePaths(state_dir=jobs.places.state),
    )
    handle = jobs.runtime.start(plan, soon())
    jobs.places.release()
    heard = hear(handle, timeout=120)
    assert heard.exit is not None
    assert heard.exit.code == 0, heard.err[-2000:]
    said = lines(heard.out)
    assert said[-1]["type"] == "complete"
    assert said[-1]["success"] is True
    model = plan.output / said[-1]["model_path"].removeprefix("/job/output/")
    assert model.stat().st_uid == 1000
    handle.remove()
    return said


def test_digits_train_in_the_container_as_they_do_natively(jobs: Jobs, tmp_path: Path) -> None:
    inside = trained(jobs, engine.executor(), DIGITS)
    outside = natively({**DIGITS, "job_id": "digits"}, tmp_path / "native")
    assert measures(inside) == measures(outside)
    assert len(measures(inside)) == 2


def test_the_image_with_pytorch_trains_what_only_that_can(
    jobs: Jobs, raw: docker.APIClient, tmp_path: Path
) -> None:
    """Of the version that this host's tests have, whose newest may carry the libraries of CUDA."""
    python, site = torch_python(), tmp_path / "versions.txt"
    versions = (
        "import sys; from importlib.metadata import version as of\n"
        "for one in sys.argv[1:]: print(f'{one}=={of(one)}')"
    )
    wanted = ("torch", "numpy", "scikit-learn", "safetensors")
    said = subprocess.run([python, "-c", versions, *wanted], capture_output=True, check=True)
    site.write_bytes(said.stdout)
    engine.build_images(jobs.socket, "--requirements", str(site), "cpu-torch")
    image = "cyxwiz/executor:cpu-torch-latest"
    assert raw.inspect_image(image)["Config"]["Labels"]["org.cyxwiz.flavour"] == "cpu-torch"
    inside = trained(jobs, image, CONVOLUTION)
    assert measures(inside) == measures(
        natively({**CONVOLUTION, "job_id": "digits"}, tmp_path / "native", python)
    )
    assert len(measures(inside)) == 2
    for tag in raw.inspect_image(image)["RepoTags"]:
        raw.remove_image(tag)


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
    """The image store of a node whose own images are those of `old`, as if it had pulled them."""
    mine = ImageRules(registry="registry.example/old", allow=("cyxwiz/*",), policy=PullPolicy.NEVER)
    images = jobs.another(rules=mine).images
    for tag in old:
        images.marks.pulled(raw.inspect_image(tag)["Id"])
    yield images
    for one in raw.containers(all=True, filters={"name": "blank-"}):
        raw.remove_container(one["Id"])


def aged(images: Any, image_id: str, seconds: float) -> None:
    """As if a job had used it so long ago."""
    then = time.time() - seconds
    os.utime(images.marks._file(image_id), (then, then))


def test_images_that_no_job_has_used_for_long_are_removed(
    keeps: Any, old: tuple[str, str], raw: docker.APIClient
) -> None:
    first, second = (raw.inspect_image(tag)["Id"] for tag in old)
    aged(keeps, first, 50)
    assert keeps.clean(older_than=86_400) == []
    made = raw.create_container(first, ["x"])["Id"]
    assert keeps.clean(older_than=10) == [], "a container is made of it"
    assert sorted(keeps.tags()) == sorted(old)
    raw.remove_container(made)
    assert keeps.clean(older_than=10) == [first]
    assert keeps.tags() == [old[1]]
    assert keeps.marks.all() == [second]


def test_what_this_node_has_not_pulled_is_not_its_to_remove(
    keeps: Any, old: tuple[str, str], raw: docker.APIClient
) -> None:
    for tag in old:
        keeps.marks.forget(raw.inspect_image(tag)["Id"])
    assert keeps.clean(older_than=0, enough_room=lambda: False, now=time.time() + 1e9) == []
    assert len(keeps.tags()) == 2


def test_for_want_of_room_the_longest_unused_go_first(
    keeps: Any, old: tuple[str, str], raw: docker.APIClient
) -> None:
    first, second = (raw.inspect_image(tag)["Id"] for tag in old)
    aged(keeps, first, 7200)
    aged(keeps, second, 9000)
    enough = iter([False, True])
    assert keeps.clean(older_than=1e9, enough_room=lambda: next(enough)) == [second]
    # one that is wanted stays, and so does one that a job has used within the hour
    wanted = ["cyxwiz/executor:cpu-1", "other/not-allowed:1"]
    assert keeps.clean(older_than=1e9, enough_room=lambda: False, spare=wanted) == []
    keeps.marks.used(first)
    assert keeps.clean(older_than=1e9, enough_room=lambda: False) == []
    assert keeps.tags() == [old[0]]


def test_a_retry_finds_the_image_of_the_first_attempt(
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
