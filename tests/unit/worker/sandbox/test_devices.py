"""What an engine is asked for of GPUs, in each of the ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from worker.devices.inventory import Device
from worker.devices.visibility import environment
from worker.plan import AttemptId, Grant, LaunchPlan, Limits
from worker.runtimes.engine.gpus import Via
from worker.sandbox.options import container_config
from worker.sandbox.profile import Profile

pytestmark = pytest.mark.unit
PAIR = [Device(uuid="GPU-a"), Device(uuid="GPU-b")]


def asked(**grant: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """The host's part of the create call, and the environment."""
    place = Path("/state")
    plan = LaunchPlan(
        attempt=AttemptId(job_id="job", fence=1),
        argv=("true",),
        env={"NVIDIA_VISIBLE_DEVICES": "all", "A": "b"},
        data=None,
        checkpoints=place,
        output=place,
        scratch=place,
        state=place,
        limits=Limits(),
        grant=Grant(slot="gpu0", **grant),
    )
    made = container_config(plan, Profile(), image="i", volumes=(), labels={}, log={})
    return made["HostConfig"], dict(one.split("=", 1) for one in made["Env"])


def granted(via: str) -> dict[str, Any]:
    return {"devices": ("GPU-a", "GPU-b"), "env": environment(PAIR), "via": via}


def test_a_request_names_each_device_and_never_a_count() -> None:
    host, env = asked(**granted(""))
    (request,) = host["DeviceRequests"]
    assert request["DeviceIDs"] == ["GPU-a", "GPU-b"]
    assert request["Count"] == 0
    assert "NVIDIA_VISIBLE_DEVICES" not in env, "the engine sets it, and two would be one too many"
    assert env["CUDA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"


def test_by_cdi_a_device_has_a_name_and_the_old_way_is_shut() -> None:
    host, env = asked(**granted(Via.CDI))
    assert host["DeviceRequests"] == [
        {"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=GPU-a", "nvidia.com/gpu=GPU-b"]}
    ]
    assert env["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert env["CUDA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"


def test_the_runtime_reads_the_environment() -> None:
    host, env = asked(**granted(Via.RUNTIME))
    assert (host["DeviceRequests"], host["Runtime"]) == ([], "nvidia")
    assert env["NVIDIA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"


def test_rocm_is_its_device_nodes() -> None:
    nodes = ("/dev/dri/renderD128", "/dev/kfd")
    host, env = asked(devices=("card",), nodes=nodes, env={"ROCR_VISIBLE_DEVICES": "card"})
    assert [one["PathOnHost"] for one in host["Devices"]] == list(nodes)
    assert host["DeviceRequests"] == []
    assert (env["NVIDIA_VISIBLE_DEVICES"], env["ROCR_VISIBLE_DEVICES"]) == ("void", "card")


def test_a_job_without_gpus_gets_none_whatever_it_says() -> None:
    host, env = asked(env=environment([]))
    assert (host["Devices"], host["DeviceRequests"]) == ([], [])
    assert env["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert env["CUDA_VISIBLE_DEVICES"] == ""
