"""What is done about limits that an engine does not keep."""

from __future__ import annotations

from itertools import product

import pytest

from worker.config import NodeConfig
from worker.engines import engine_state
from worker.plan import Limits
from worker.sandbox.engine_report import EngineFacts, EngineReport
from worker.sandbox.readback import Finding
from worker.sandbox.standins import (
    LIMITS,
    STOOD_IN,
    UNENFORCED,
    Shortfall,
    judged,
    kernel_version,
    refusal,
    stand_ins,
    with_rlimits,
)

pytestmark = pytest.mark.unit

ALL = Limits(memory_mb=128, cpu_cores=1.5, pids=64)
V1 = Shortfall(ignored=frozenset(LIMITS), why="v1", own_users=True, kernel=(6, 1), pins=True)


def test_a_whole_engine_needs_nothing() -> None:
    stand = stand_ins(ALL, Shortfall(), ())
    assert (stand.rlimits, stand.cpus, stand.held, stand.accepted, stand.refused) == (
        *((), 0, ()),
        *((), ()),
    )


@pytest.mark.parametrize(
    ("accepted", "ignored"),
    list(product(((), ("memory",), LIMITS), ((), ("memory",), ("cpu",), LIMITS))),
)
def test_each_limit_is_kept_stood_in_for_accepted_or_refused(
    accepted: tuple[str, ...], ignored: tuple[str, ...]
) -> None:
    for pins, kernel in product((False, True), ((5, 10), (6, 1))):
        short = Shortfall(ignored=frozenset(ignored), own_users=True, kernel=kernel, pins=pins)
        stand = stand_ins(ALL, short, accepted)
        assert sorted((*stand.held, *stand.accepted, *stand.refused)) == sorted(ignored)
        assert set(stand.accepted) <= set(accepted)
        assert not set(stand.refused) & set(accepted)
        assert "memory" not in stand.held
        assert bool(refusal(stand, short, "podman")) == bool(stand.refused)


def test_what_stands_in_is_asked_for_and_proven() -> None:
    stand = stand_ins(ALL, V1, ["memory"])
    assert (stand.held, stand.accepted, stand.cpus) == (("pids", "cpu"), ("memory",), 2)
    assert stand.watched_memory_mb == 128
    config = {"HostConfig": {"PidsLimit": 64, "Ulimits": []}}
    limits = with_rlimits(config, stand)["HostConfig"]["Ulimits"]
    assert {one["Name"]: one["Hard"] for one in limits} == {
        "nproc": 64,
        "data": (256 << 20) + (1 << 30),
    }
    gpu = stand_ins(ALL, V1, ["memory"], gpu=True)
    assert [one["Name"] for one in gpu.rlimits] == ["nproc"], "drivers map far more than they use"


def finding(item: str, seen: str, good: bool) -> Finding:
    return Finding(item=item, wanted="x", seen=seen, good=good)


def test_a_stand_in_that_was_not_seen_holds_nothing() -> None:
    stand = stand_ins(ALL, V1, ["memory"])
    bad = [finding(one, "None", good=False) for one in LIMITS]
    proofs = [
        finding("nproc", "64", good=True),
        finding("user namespace", "its own", good=True),
        finding("cpus", "2", good=True),
    ]
    good = {one.item: one for one in judged([*bad, *proofs], stand)}
    assert [good[one].keeping for one in LIMITS] == [UNENFORCED, STOOD_IN, STOOD_IN]
    assert all(good[one].good for one in LIMITS)
    for broken in proofs:
        less = [one for one in proofs if one is not broken]
        seen = {one.item: one for one in judged([*bad, *less], stand)}
        assert not all(seen[one].good for one in LIMITS)
        wrong = [*less, finding(broken.item, "y", good=False)]
        seen = {one.item: one for one in judged([*bad, *wrong], stand)}
        assert not all(seen[one].good for one in LIMITS)


@pytest.mark.parametrize(
    ("release", "version"),
    [("6.18.44-x", (6, 18)), ("5.4", (5, 4)), ("6.1-rc3", (6, 1)), ("odd", (0, 0)), ("", (0, 0))],
)
def test_kernel_versions(release: str, version: tuple[int, int]) -> None:
    assert kernel_version(release) == version


def test_of_two_engines_of_which_one_is_broken_the_other_is_used() -> None:
    broken = EngineReport(
        facts=EngineFacts(name="docker", version="1"), available=True, reason="memory: not kept"
    )
    whole = EngineReport(facts=EngineFacts(name="podman", version="2"), available=True)
    auto = NodeConfig.model_validate({"node": {"name": "a"}})
    assert engine_state(auto, [broken, whole]).name == "podman"
    assert engine_state(auto, [broken]).reason == "docker: memory: not kept"
    docker = NodeConfig.model_validate({"node": {"name": "a"}, "execution": {"mode": "docker"}})
    found = engine_state(docker, [broken, whole])
    assert (found.name, found.usable, found.available) == ("docker", False, True)
    native = NodeConfig.model_validate({"node": {"name": "a"}, "execution": {"mode": "native"}})
    assert engine_state(native, [whole]).reason == "execution.mode is native"
