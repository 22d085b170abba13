"""Which image a job gets."""

from __future__ import annotations

import pytest
from packaging.version import Version

from tasks.choices import Device
from worker.sandbox.selection import (
    Chosen,
    Flavoured,
    NoImage,
    flavours_for,
    known_images,
    select_image,
)

pytestmark = pytest.mark.unit


def have(*names: str) -> list[Flavoured]:
    pairs = (name.split("-", 1) for name in names)
    return [Flavoured(flavour=flavour, version=Version(number)) for flavour, number in pairs]


def chosen(
    device: Device,
    *names: str,
    image: str | None = None,
    version: str | None = None,
    cuda: int | None = None,
) -> str | None:
    found = select_image(image=image, version=version, device=device, known=have(*names), cuda=cuda)
    return found.reference.removeprefix("cyxwiz/executor:") if isinstance(found, Chosen) else None


def test_an_image_that_the_job_names_is_taken_as_it_stands() -> None:
    assert chosen(Device.CUDA, "cuda12-1.0", image="mine:1") == "mine:1"
    assert chosen(Device.CUDA, image="cyxwiz/executor:cpu-latest") == "cpu-latest"


@pytest.mark.parametrize(
    ("device", "cuda", "best"),
    [
        (Device.CPU, None, "cpu-1.0"),
        (Device.CUDA, None, "cuda12-1.0"),
        (Device.CUDA, 13, "cuda12-1.0"),
        (Device.CUDA, 12, "cuda12-1.0"),
        (Device.CUDA, 11, "cuda11-1.0"),
        (Device.CUDA, 10, None),
        (Device.ROCM, None, "rocm-1.0"),
    ],
)
def test_the_best_flavour_for_a_device(device: Device, cuda: int | None, best: str | None) -> None:
    everything = ("cpu-1.0", "cuda11-1.0", "cuda12-1.0", "rocm-1.0")
    assert chosen(device, *everything, cuda=cuda) == best


def test_a_gpu_job_never_gets_an_image_without_one() -> None:
    assert chosen(Device.CUDA, "cpu-9.0", version=">=1") is None
    assert chosen(Device.CUDA, "cpu-9.0", "cuda11-1.0") == "cuda11-1.0"
    assert chosen(Device.ROCM, "cpu-9.0", "cuda12-9.0", version=">=1") is None
    assert chosen(Device.CPU, "cuda12-9.0", version=">=1") is None


@pytest.mark.parametrize(
    ("version", "best"),
    [
        (None, "cpu-2.0"),
        (">=1.2,<2", "cpu-1.10"),
        ("~=1.4", "cpu-1.10"),
        ("==1.4", "cpu-1.4"),
        ("==1.*", "cpu-1.10"),
        (">=3", None),
        (">=3.0a1", "cpu-3.0rc1"),
    ],
)
def test_the_newest_version_that_fits(version: str | None, best: str | None) -> None:
    names = ("cpu-1.4", "cpu-1.10", "cpu-1.9", "cpu-2.0", "cpu-3.0rc1")
    assert chosen(Device.CPU, *names, version=version) == best


def test_where_nothing_is_known_latest_is_left_to_the_pull_policy() -> None:
    assert chosen(Device.CPU) == "cpu-latest"
    assert chosen(Device.CUDA, "cpu-1.0") == "cuda12-latest"
    missing = select_image(
        image=None, version=">=3", device=Device.CPU, known=have("cpu-1.0", "rocm-9")
    )
    assert missing == NoImage(
        message="image_version: no cpu image that >=3 admits; this node has: "
        "cyxwiz/executor:cpu-1.0, cyxwiz/executor:rocm-9"
    )


def test_tags_of_others_are_no_images_of_ours() -> None:
    tags = [
        "cyxwiz/executor:cpu-1.2.3",
        "cyxwiz/executor:cpu-latest",
        "cyxwiz/executor:cpu-torch-1.0",
        "cyxwiz/executor:tpu-1.0",
        "cyxwiz/executor:cpu",
        "evil.example/cyxwiz/executor:cpu-9.0",
        "r.example/team/executor:cuda12-1.0",
    ]
    assert known_images(tags, "cyxwiz/executor") == have("cpu-1.2.3")
    assert known_images(tags, "r.example/team/executor") == have("cuda12-1.0")
    assert flavours_for(Device.CUDA, None) == ("cuda12", "cuda11")
