"""What is made of what Podman says of itself, and what it is asked for."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from worker.plan import AttemptId, Grant, LaunchPlan, Limits
from worker.runtimes import podman
from worker.runtimes.engine.errors import EngineError, SandboxUnavailable
from worker.runtimes.podman import _believed, _turn, _unusable, shortfall, tightened
from worker.sandbox import libpod
from worker.sandbox.options import container_config
from worker.sandbox.profile import Profile

pytestmark = pytest.mark.unit

V1 = {"cgroupVersion": "v1", "cgroupControllers": []}
V2 = {"cgroupVersion": "v2", "cgroupControllers": ["cpu", "memory", "pids"]}


def info(**host: Any) -> dict[str, Any]:
    mine = [
        {"container_id": 0, "host_id": 1000, "size": 1},
        {"container_id": 1, "host_id": 100000, "size": 65536},
    ]
    return {"host": {**V1, "security": {"rootless": True}, "idMappings": {"uidmap": mine}, **host}}


def test_on_version_1_of_control_groups_no_limit_is_kept() -> None:
    short = shortfall(info(), "6.1.0-x", pins=True)
    assert short.ignored == {"memory", "pids", "cpu"}
    assert not short.pause
    assert "version 1" in short.why
    assert [short.stands_in(one) for one in ("memory", "pids", "cpu")] == [False, True, True]
    old = shortfall(info(), "5.10.0", pins=False)
    assert [old.stands_in(one) for one in ("memory", "pids", "cpu")] == [False, False, False]


def test_on_version_2_what_is_not_delegated_is_not_kept() -> None:
    assert shortfall(info(**V2), "6.1", pins=True).ignored == frozenset()
    assert shortfall(info(**V2), "6.1", pins=True).pause
    some = {**V2, "cgroupControllers": ["memory", "pids"]}
    short = shortfall(info(**some), "6.1", pins=True)
    assert short.ignored == {"cpu"}
    assert "Delegate=" in short.why


def test_whose_podman_it_is() -> None:
    assert _unusable(info(), 1000) == ""
    assert "user 1000" in _unusable(info(), 1001)
    assert "runs as root" in _unusable(info(security={"rootless": False}), 0)
    alone = {"uidmap": [{"container_id": 0, "host_id": 1000, "size": 1}]}
    assert "--add-subuids" in _unusable(info(idMappings=alone), 1000)


NO_IDS = EngineError(
    "creating container n: keep-id requires additional UIDs or GIDs defined in /etc/subuid and "
    "/etc/subgid to function correctly: %!w(<nil>)"
)


def answering(*answers: dict[str, Any] | EngineError) -> Any:
    left = list(answers)

    def make() -> dict[str, Any]:
        answer = left.pop(0)
        if isinstance(answer, EngineError):
            raise answer
        return answer

    make.left = left  # type: ignore[attr-defined]  # for the tests to look at
    return make


def test_that_there_are_no_subordinate_ids_is_not_believed_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(podman, "_PAUSE", 0.0)
    assert _believed(answering(NO_IDS, NO_IDS, NO_IDS, {"Id": "1"})) == {"Id": "1"}
    with pytest.raises(SandboxUnavailable, match="--add-subuids"):
        _believed(answering(*[NO_IDS] * 4))
    other = answering(EngineError("no space left"), {"Id": "1"})
    with pytest.raises(EngineError, match="no space left"):
        _believed(other)
    assert len(other.left) == 1, "any other answer is taken as it is"


def test_one_container_is_made_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    socket = tmp_path / "podman.sock"
    second = threading.Event()

    def wait_for_it() -> None:
        with _turn(socket, "creating container b"):
            second.set()

    waiting = threading.Thread(target=wait_for_it)
    with _turn(socket, "creating container a"):
        waiting.start()
        assert not second.wait(0.05)
    assert second.wait(10)
    waiting.join()
    monkeypatch.setattr(podman, "_TURN_WITHIN", 0.0)
    stuck = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(stuck, fcntl.LOCK_EX)
    with pytest.raises(EngineError, match="another process"), _turn(socket, "c"):
        pass
    os.close(stuck)
    with pytest.raises(EngineError, match="No such file"), _turn(tmp_path / "no" / "s", "d"):
        pass


def test_the_seccomp_profile_lets_a_job_make_no_namespace() -> None:
    names = ["clone", "clone3", "unshare", "mount", "read", "sched_setaffinity"]
    profile = {"syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW", "args": []}]}
    rules = tightened(profile)["syscalls"]
    free = {name for one in rules if one["action"] == "SCMP_ACT_ALLOW" for name in one["names"]}
    assert free == {"clone", "read"}
    [clone] = [one for one in rules if one["names"] == ["clone"]]
    assert clone["args"][0]["value"] == 0x7E020000
    denied = {name for one in rules if one["action"] == "SCMP_ACT_ERRNO" for name in one["names"]}
    assert {"unshare", "mount", "sched_setaffinity", "clone3"} <= denied
    assert profile["syscalls"][0]["names"] == names, "what was given stays"


def asked(**limits: Any) -> dict[str, Any]:
    plan = LaunchPlan(
        attempt=AttemptId(job_id="a", fence=1),
        argv=("python3", "-c", "pass"),
        env={"A": "b=c"},
        data=Path("/n/data"),
        checkpoints=Path("/n/c"),
        output=Path("/n/o"),
        scratch=Path("/n/s"),
        state=Path("/n/t"),
        limits=Limits(**{"memory_mb": 128, "cpu_cores": 1.5, "pids": 64, **limits}),
        grant=Grant(slot="cpu0"),
    )
    config = container_config(
        plan,
        Profile(user=(1000, 1000)),
        image="sha256:1",
        volumes=["/big"],
        labels={"l": "m"},
        log={"Type": "k8s-file", "Config": {"max-size": "1024"}},
    )
    return {**config, "HostConfig": {**config["HostConfig"], "UsernsMode": "keep-id"}}


def test_everything_that_is_asked_for_is_said() -> None:
    spec = libpod.specification("n", asked(), ignored=frozenset(), seccomp="/s.json")
    assert spec["userns"] == {"nsmode": "keep-id"}
    assert spec["netns"] == {"nsmode": "none"}
    assert (spec["cap_drop"], spec["no_new_privileges"]) == (["ALL"], True)
    assert spec["env"]["A"] == "b=c"
    assert spec["env"]["HOME"] == "/tmp"
    assert spec["resource_limits"] == {
        "memory": {"limit": 128 << 20, "swap": 128 << 20},
        "pids": {"limit": 64},
        "cpu": {"quota": 150_000, "period": 100_000},
    }
    assert {one["type"]: one["hard"] for one in spec["r_limits"]} == {"core": 0, "nofile": 65536}
    mounts = {one["destination"]: one["options"] for one in spec["mounts"]}
    assert set(mounts) == {"/tmp", "/job/data", "/job/checkpoints", "/job/output", "/big"}
    assert "ro" in mounts["/job/data"]
    assert "rw" in mounts["/job/output"]
    assert {"ro", "noexec"} <= set(mounts["/big"])
    assert "noexec" in mounts["/tmp"]
    assert spec["seccomp_profile_path"] == "/s.json"


def test_limits_that_it_cannot_keep_are_not_asked_for() -> None:
    every = frozenset({"memory", "pids", "cpu"})
    assert libpod.specification("n", asked(), ignored=every)["resource_limits"] == {}


def test_what_it_has_no_word_for_is_refused_and_not_dropped() -> None:
    odd = asked()
    odd["HostConfig"]["CpusetCpus"] = "0"
    with pytest.raises(libpod.Unsayable, match="CpusetCpus"):
        libpod.specification("n", odd, ignored=frozenset())
    gpu = asked()
    gpu["HostConfig"]["DeviceRequests"] = [{"Driver": "", "Count": -1, "Capabilities": [["gpu"]]}]
    with pytest.raises(libpod.Unsayable, match="CDI"):
        libpod.specification("n", gpu, ignored=frozenset())
    gpu["HostConfig"]["DeviceRequests"] = [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=0"]}]
    spec = libpod.specification("n", gpu, ignored=frozenset())
    assert spec["devices"] == [{"path": "nvidia.com/gpu=0"}]
    rocm = asked()
    rocm["HostConfig"]["Devices"] = [{"PathOnHost": "/dev/kfd"}]
    spec = libpod.specification("n", rocm, ignored=frozenset())
    assert spec["devices"] == [{"path": "/dev/kfd"}]
    rocm["HostConfig"]["GroupAdd"] = ["104"]
    with pytest.raises(libpod.Unsayable, match="/dev/kfd belongs to 104"):
        libpod.specification("n", rocm, ignored=frozenset())


def test_what_inspect_tells_otherwise_is_a_difference() -> None:
    wanted = asked()
    seen: dict[str, Any] = {
        "Args": ["--", "python3", "-c", "pass"],
        "EffectiveCaps": ["CAP_CHOWN"],
        "HostConfig": {"ReadonlyRootfs": False, "PidsLimit": 0, "Ulimits": []},
        "Config": {},
    }
    wrong = {one.item for one in libpod.compare(wanted, seen, ignored=frozenset()) if not one.good}
    assert {"ReadonlyRootfs", "Capabilities", "PidsLimit", "Memory", "Ulimits", "Mounts"} <= wrong
    spared = libpod.compare(wanted, seen, ignored=frozenset({"memory", "pids", "cpu"}))
    assert {"Memory", "PidsLimit"} & {one.item for one in spared} == set()


def test_of_limits_of_a_process_those_that_were_asked_for_count() -> None:
    """Where none on processes is asked for, Podman gives its user's."""
    own = {"Name": "RLIMIT_NPROC", "Soft": 32768, "Hard": 32768}
    wanted = asked()
    limits = wanted["HostConfig"]["Ulimits"]

    def good(found: list[dict[str, Any]], config: dict[str, Any] = wanted) -> bool:
        seen = {"HostConfig": {"Ulimits": found}}
        findings = libpod.compare(config, seen, ignored=frozenset())
        return next(one.good for one in findings if one.item == "Ulimits")

    assert good(limits)
    assert good([*limits, own])
    assert not good([*limits, {**own, "Name": "RLIMIT_CORE"}])
    assert not good(limits[1:])
    fewer = {"Name": "nproc", "Soft": 64, "Hard": 64}
    stricter = {**wanted, "HostConfig": {**wanted["HostConfig"], "Ulimits": [*limits, fewer]}}
    assert not good([*limits, own], stricter)
    assert good([*limits, fewer], stricter)
