"""What the engine is asked for, and what counts as a difference."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from worker.plan import AttemptId, Grant, LaunchPlan, Limits, Mount
from worker.sandbox.options import container_config
from worker.sandbox.profile import Profile, user_for
from worker.sandbox.readback import compare, differences

pytestmark = pytest.mark.unit


def plan(**differs: Any) -> LaunchPlan:
    given: dict[str, Any] = {
        "attempt": AttemptId(job_id="job", fence=3),
        "argv": ("python3", "-c", "pass"),
        "env": {"A": "1"},
        "data": Path("/srv/data"),
        "checkpoints": Path("/srv/checkpoints"),
        "output": Path("/srv/output"),
        "scratch": Path("/srv/scratch"),
        "state": Path("/srv/state"),
        "limits": Limits(memory_mb=512, cpu_cores=1.5, shm_size_mb=32, pids=100, nofile=2048),
        "grant": Grant(slot="cpu0"),
        "image": "cyxwiz/executor:cpu-latest",
    }
    return LaunchPlan(**{**given, **differs})


def asked(profile: Profile | None = None, volumes: tuple[str, ...] = (), **differs: Any) -> Any:
    return container_config(
        plan(**differs),
        profile or Profile(),
        image="sha256:abc",
        volumes=volumes,
        labels={"org.cyxwiz.job": "job"},
        log={"Type": "local", "Config": {}},
    )


def seen(config: dict[str, Any]) -> dict[str, Any]:
    """What an engine that does as it is asked says of the container."""
    host = copy.deepcopy(config["HostConfig"])
    host |= {"MaskedPaths": ["/proc/kcore"], "ReadonlyPaths": ["/proc/sys"]}
    mounts = [
        {
            "Type": one["Type"],
            "Source": one.get("Source", ""),
            "Destination": one["Target"],
            "RW": not one["ReadOnly"],
        }
        for one in host["Mounts"]
    ]
    return {"Config": copy.deepcopy(config), "HostConfig": host, "Mounts": mounts}


def wrong(config: dict[str, Any], answer: dict[str, Any]) -> list[str]:
    return [one.item for one in differences(compare(config, answer))]


def test_what_does_as_it_was_asked_is_right() -> None:
    config = asked(volumes=("/big",))
    assert wrong(config, seen(config)) == []


@pytest.mark.parametrize(
    ("item", "value"),
    [
        ("ReadonlyRootfs", False),
        ("NetworkMode", "bridge"),
        ("CapDrop", []),
        ("CapAdd", ["SYS_ADMIN"]),
        ("SecurityOpt", []),
        ("SecurityOpt", ["no-new-privileges", "seccomp=unconfined"]),
        ("Privileged", True),
        ("PidsLimit", 0),
        ("PidsLimit", None),
        ("Memory", 0),
        ("MemorySwap", -1),
        ("NanoCpus", 0),
        ("ShmSize", 1 << 40),
        ("Ulimits", []),
        ("IpcMode", "host"),
        ("PidMode", "host"),
        ("UsernsMode", "host"),
        ("CgroupnsMode", "host"),
        ("Devices", [{"PathOnHost": "/dev/sda"}]),
        ("Init", None),
        ("AutoRemove", True),
        ("RestartPolicy", {"Name": "always"}),
        ("Tmpfs", {}),
        ("Binds", ["/:/host"]),
        ("OomScoreAdj", 0),
    ],
)
def test_each_items_difference_is_found(item: str, value: object) -> None:
    config = asked()
    answer = seen(config)
    answer["HostConfig"][item] = value
    assert wrong(config, answer) == [item]


@pytest.mark.parametrize(
    ("item", "value"),
    [("User", ""), ("User", "0:0"), ("Entrypoint", ["/bin/sh"]), ("Cmd", []), ("Tty", True)],
)
def test_what_the_image_would_have_is_found(item: str, value: object) -> None:
    config = asked()
    answer = seen(config)
    answer["Config"][item] = value
    assert wrong(config, answer) == [item]


def test_a_mount_more_or_less_or_writable_is_found() -> None:
    config = asked()
    for change in ("more", "less", "writable"):
        answer = seen(config)
        match change:
            case "more":
                answer["Mounts"].append(
                    {"Type": "volume", "Source": "/v", "Destination": "/x", "RW": True}
                )
            case "less":
                answer["Mounts"].pop()
            case _:
                answer["Mounts"][0]["RW"] = True
        assert wrong(config, answer) == ["Mounts"], change


def test_paths_that_are_not_hidden_a_health_check_and_lost_variables_are_found() -> None:
    config = asked()
    answer = seen(config)
    answer["HostConfig"]["MaskedPaths"] = None
    answer["Config"]["Healthcheck"] = {"Test": ["CMD", "x"]}
    answer["Config"]["Env"] = ["B=2"]
    answer["Config"]["Labels"] = {}
    assert wrong(config, answer) == ["MaskedPaths", "Healthcheck", "Labels", "Env"]


def test_no_secret_is_in_a_finding() -> None:
    config = asked(env={"TOKEN": "hush"})
    answer = seen(config)
    answer["Config"]["Env"] = []
    assert "hush" not in str([str(one) for one in compare(config, answer)])


def test_nothing_is_ever_unlimited_in_processes() -> None:
    assert asked(limits=Limits())["HostConfig"]["PidsLimit"] == 4096
    assert asked(limits=Limits(pids=1))["HostConfig"]["PidsLimit"] == 64


def test_memory_and_swap_are_one() -> None:
    host = asked()["HostConfig"]
    assert host["Memory"] == host["MemorySwap"] == 512 << 20


def test_volumes_of_the_image_are_covered_but_not_our_own_places() -> None:
    mounts = asked(volumes=("/big", "/job/output", "/tmp", "/", "rel"))["HostConfig"]["Mounts"]
    covers = [(one["Target"], one["ReadOnly"]) for one in mounts if one["Type"] == "tmpfs"]
    assert covers == [("/big", True), ("/rel", True)]


def test_the_grants_devices_are_the_only_way_to_a_gpu() -> None:
    env = {"NVIDIA_VISIBLE_DEVICES": "all", "NVIDIA_REQUIRE_CUDA": "x"}
    assert asked(env=env)["Env"] == ["NVIDIA_VISIBLE_DEVICES=void"]
    grant = Grant(slot="gpu0", devices=("GPU-1",), env={"NVIDIA_VISIBLE_DEVICES": "GPU-1"})
    made = asked(env=env, grant=grant)
    assert made["Env"] == [], "the engine sets it, by the request"
    assert [one["DeviceIDs"] for one in made["HostConfig"]["DeviceRequests"]] == [["GPU-1"]]


def test_mounts_of_plan_and_grant_are_there() -> None:
    more = Mount(source=Path("/srv/code"), target="/job/code", read_only=True)
    mounts = asked(mounts=(more,))["HostConfig"]["Mounts"]
    assert [(one["Target"], one["ReadOnly"]) for one in mounts] == [
        ("/job/data", True),
        ("/job/checkpoints", False),
        ("/job/output", False),
        ("/job/code", True),
    ]
    assert {one["BindOptions"]["Propagation"] for one in mounts} == {"rprivate"}


@pytest.mark.parametrize(
    ("loosened", "item", "value"),
    [
        ("read_only_root", "ReadonlyRootfs", False),
        ("no_network", "NetworkMode", "default"),
        ("drop_capabilities", "CapDrop", []),
        ("tmp_noexec", "Tmpfs", {"/tmp": "rw,nosuid,nodev,exec,size=1024m,mode=1777"}),
    ],
)
def test_loosening_changes_one_item(loosened: str, item: str, value: object) -> None:
    profile = Profile(**{loosened: False})
    strict, loose = asked()["HostConfig"], asked(profile)["HostConfig"]
    assert {key for key in strict if strict[key] != loose[key]} == {item}
    assert loose[item] == value
    assert profile.loosened == (loosened,)


def test_jobs_never_run_as_root() -> None:
    assert user_for(0, 0) == (1000, 1000)
    assert user_for(1234, 99) == (1234, 99)


@pytest.mark.parametrize(
    ("limits", "mebibytes"),
    [
        (Limits(output_mb=2048, memory_mb=512), 2049),
        (Limits(output_mb=16, memory_mb=4096), 4097),
        (Limits(output_mb=16, memory_mb=128, shm_size_mb=2048), 2049),
        (Limits(output_mb=16, memory_mb=128), 1025),  # of /tmp
        (Limits(output_mb=0, memory_mb=128), None),
        (Limits(output_mb=16, memory_mb=0), None),  # a file in memory may have all of it
    ],
)
def test_no_file_may_be_larger_than_there_is_room_for(
    limits: Limits, mebibytes: int | None
) -> None:
    found = asked(limits=limits)["HostConfig"]["Ulimits"]
    sizes = [(one["Soft"], one["Hard"]) for one in found if one["Name"] == "fsize"]
    assert sizes == ([] if mebibytes is None else [(mebibytes << 20,) * 2])
