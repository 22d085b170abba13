"""What is concluded from a probe."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pytest

from worker.sandbox.attestation import concluded, judge
from worker.sandbox.engine_report import EngineFacts, EngineReport, Keeping, Promise, to_json
from worker.sandbox.known_holes import known_holes
from worker.sandbox.levels import SandboxLevel
from worker.sandbox.probed import Inside, Probed, probed_from
from worker.sandbox.readback import Finding
from worker.sandbox.standins import STOOD_IN, UNENFORCED

pytestmark = pytest.mark.unit

DOCKER = EngineFacts(name="docker", version="27.0", runtime="runc 1.3.3")
PODMAN = EngineFacts(
    name="podman", version="5.0", rootless=True, why_ignored="cgroups of version 1"
)
ITEMS = (
    *("uid", "gid", "groups", "no_new_privs", "seccomp", "capabilities", "root", "/tmp"),
    *("writable mounts", "namespaces shared with the host", "network routes", "memory", "pids"),
    *("cpu", "core", "nofile", "fsize"),
)
INSIDE = Inside(
    uid=1000,
    wrote_root=False,
    capabilities="0000000000000000",
    links=(),
    devices=("null", "zero", "pts"),
    made_users=False,
    chose_cpus=True,
    forked=64,
    took_memory=False,
)


def probed(inside: Inside = INSIDE, **differs: Finding) -> Probed:
    findings = {name: Finding(item=name, wanted="x", seen="x", good=True) for name in ITEMS}
    return Probed(
        image="cyxwiz/executor:cpu-1",
        limits={"memory": 128, "pids": 64, "cpu": 1},
        findings=tuple((findings | differs).values()),
        inside=inside,
    )


def bad(item: str, keeping: str = "") -> Finding:
    return Finding(item=item, wanted="1", seen="None", good=False, keeping=keeping)


def conclude(facts: EngineFacts, one: Probed, **differs: Any) -> EngineReport:
    given: dict[str, Any] = {"accepted": (), "images": (), "require_patched": False}
    return concluded(facts, one, **{**given, **differs})


def of(promises: tuple[Promise, ...], name: str) -> Promise:
    return next(one for one in promises if one.name == name)


def test_a_whole_engine_has_its_level() -> None:
    report = conclude(DOCKER, probed())
    assert (report.usable, report.reason, report.level) == (True, "", SandboxLevel.FULL)
    assert conclude(PODMAN, probed()).level is SandboxLevel.BASIC
    loosened = replace(DOCKER, loosened=("no_network",))
    assert conclude(loosened, probed()).level is SandboxLevel.NONE
    assert conclude(loosened, probed()).usable


@pytest.mark.parametrize(
    ("name", "differs"),
    [
        ("user", {"uid": 0}),
        ("capabilities", {"capabilities": "00000000a80425fb"}),
        ("system calls", {"made_users": True}),
        ("read-only root", {"wrote_root": True}),
        ("network", {"links": ("eth0",)}),
        ("memory", {"took_memory": True}),
        ("pids", {"forked": 97}),
        ("devices", {"devices": ("null", "nvidia0")}),
        ("devices", {"devices": None}),
    ],
)
def test_what_the_inside_shows_counts_as_much_as_the_host(
    name: str, differs: dict[str, Any]
) -> None:
    report = conclude(DOCKER, probed(replace(INSIDE, **differs)))
    refused = [one.name for one in report.promises if one.keeping is Keeping.REFUSED]
    assert refused == [name]
    assert not report.usable
    assert report.level is SandboxLevel.NONE
    assert name in report.reason
    assert report.todo


@pytest.mark.parametrize("item", ITEMS)
def test_each_item_of_the_host_can_break_its_promise(item: str) -> None:
    report = conclude(DOCKER, probed(**{item: bad(item)}))
    assert [one.keeping for one in report.promises].count(Keeping.REFUSED) == 1
    assert not report.usable


@pytest.mark.parametrize("item", ITEMS)
def test_what_the_host_does_not_show_does_not_hold(item: str) -> None:
    whole = probed()
    several = {"gid", "groups", "uid", "writable mounts", "/tmp", "root", "core", "nofile", "fsize"}
    if item in several:
        return  # one of several that its promise rests on
    less = replace(whole, findings=tuple(one for one in whole.findings if one.item != item))
    assert not conclude(DOCKER, less).usable


def test_a_limit_that_is_ignored_is_refused_accepted_or_stood_in_for() -> None:
    ignored = probed(replace(INSIDE, took_memory=None), memory=bad("memory", UNENFORCED))
    memory = of(judge(PODMAN, ignored), "memory")
    assert memory.keeping is Keeping.REFUSED
    assert "cgroups of version 1" in memory.why
    assert "accept_unenforced: [memory]" in memory.todo
    report = conclude(PODMAN, ignored, accepted=["memory"])
    assert of(report.promises, "memory").keeping is Keeping.ACCEPTED
    assert (report.usable, report.level) == (True, SandboxLevel.NONE)
    stood = Finding(item="pids", wanted="64", seen="nproc 64", good=True, keeping=STOOD_IN)
    assert of(judge(PODMAN, probed(pids=stood)), "pids").keeping is Keeping.STOOD_IN


def test_cpus_are_stood_in_for_only_if_the_job_cannot_choose() -> None:
    stood = Finding(item="cpu", wanted="1.00", seen="cpus 1", good=True, keeping=STOOD_IN)
    assert of(judge(PODMAN, probed(cpu=stood)), "cpu").keeping is Keeping.REFUSED
    held = probed(replace(INSIDE, chose_cpus=False), cpu=stood)
    assert of(judge(PODMAN, held), "cpu").keeping is Keeping.STOOD_IN


@pytest.mark.parametrize(
    ("runtime", "toolkit", "holes"),
    [
        ("runc 1.1.5+ds1", "", 1),
        ("runc 1.2.8", "", 0),
        ("runc 1.3.2", "", 1),
        ("runc 1.3.3", "", 0),
        ("crun 1.8", "", 0),
        ("runc 1.2.8", "1.17.7", 1),
        ("runc 1.0.0", "1.16.2", 2),
        ("runc", "registered", 0),
    ],
)
def test_versions_with_known_holes_are_warned_of(runtime: str, toolkit: str, holes: int) -> None:
    facts = replace(DOCKER, runtime=runtime, toolkit=toolkit)
    assert len(known_holes(facts)) == holes
    report = conclude(facts, probed())
    assert report.usable
    assert len(report.warnings) == holes
    patched = conclude(facts, probed(), require_patched=True)
    assert patched.usable is (holes == 0)
    assert ("require_patched" in patched.reason) is (holes > 0)


def test_a_probe_that_came_to_nothing_says_why_and_what_to_do() -> None:
    said = (
        "starting container: crun: the requested cgroup controller `pids` is not available: "
        "OCI runtime error"
    )
    report = conclude(PODMAN, Probed(image="x", limits={}, error=said))
    assert not report.usable
    assert "containers.conf" in report.todo
    other = "the engine did not take Runtime: wanted runc, found crun"
    assert "containers.conf" in conclude(PODMAN, Probed(image="x", limits={}, error=other)).todo
    vfs = conclude(replace(PODMAN, storage="vfs"), probed())
    assert "overlay" in vfs.warnings[0]


def test_a_probe_comes_back_from_json() -> None:
    one = probed(memory=bad("memory"))
    assert probed_from(json.loads(json.dumps(asdict(one)))) == one
    told = json.loads(json.dumps(to_json(conclude(DOCKER, one))))
    assert told["level"] == "none"
    assert {"name", "keeping", "seen", "why", "todo"} == set(told["promises"][0])
