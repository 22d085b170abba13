"""What real engines of this host are good for, as a probe shows it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support import engine
from tests.support.runtimes import engine_runtime_in, engine_socket
from worker.attestor import Attestor
from worker.config import NodeConfig
from worker.engine_sections import PullPolicy
from worker.runtimes.engine.images import ImageRules
from worker.runtimes.engine.manager import ContainerManager
from worker.runtimes.engine.runtime import EngineRuntime
from worker.sandbox.engine_report import EngineReport, Keeping
from worker.sandbox.levels import SandboxLevel
from worker.sandbox.probed import Probed

pytestmark = pytest.mark.integration

PROMISES = {
    *("user", "capabilities", "privileges", "system calls", "read-only root", "namespaces"),
    *("network", "memory", "pids", "cpu", "open files", "devices"),
}


@pytest.fixture(params=["docker", pytest.param("podman", marks=pytest.mark.podman)])
def name(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture
def runtime(name: str, tmp_path: Path) -> Iterator[EngineRuntime]:
    """Of an engine of the tests' own, with nothing accepted. Nothing may be left of a probe."""
    state = tmp_path / "state"
    state.mkdir()
    made = engine_runtime_in(name, state, engine_socket(name), accept_unenforced=frozenset())
    yield made
    left = [
        one["Names"]
        for one in made.manager.containers({})
        if str(state) in str(one["Labels"].get("org.cyxwiz.state"))
    ]
    assert left == []
    made.close()


@pytest.fixture
def attestor(tmp_path: Path) -> Attestor:
    return Attestor(config(tmp_path))


def config(tmp_path: Path) -> NodeConfig:
    return NodeConfig.model_validate({"node": {"name": "a", "state_dir": str(tmp_path / "state")}})


def keepings(report: EngineReport) -> dict[str, Keeping]:
    return {one.name: one.keeping for one in report.promises}


def test_each_promise_is_seen_to_be_kept_or_said_not_to_be(
    runtime: EngineRuntime, attestor: Attestor, name: str
) -> None:
    report = attestor.report(runtime)
    found = keepings(report)
    assert set(found) == PROMISES, report.reason
    ignored = name == "podman" and report.facts.cgroup_version == 1
    if not ignored:
        assert report.reason == ""
        assert set(found.values()) <= {Keeping.ENFORCED, Keeping.STOOD_IN}
        assert report.level is (SandboxLevel.FULL if name == "docker" else SandboxLevel.BASIC)
        return
    assert found.pop("memory") is Keeping.REFUSED
    assert {found.pop("pids"), found.pop("cpu")} == {Keeping.STOOD_IN}
    assert set(found.values()) == {Keeping.ENFORCED}
    assert not report.usable
    assert "the limit on memory is not kept: a rootless Podman keeps no limits" in report.reason
    assert "podman.accept_unenforced: [memory]" in report.todo
    assert report.level is SandboxLevel.NONE
    settings = replace(runtime.settings, accept_unenforced=frozenset({"memory"}))
    taken = engine_runtime_in(name, settings.state_root, settings.socket)
    accepted = attestor.report(taken)
    taken.close()
    assert accepted.usable
    assert keepings(accepted)["memory"] is Keeping.ACCEPTED
    assert accepted.level is SandboxLevel.NONE, "what is accepted is no promise"


def test_an_engine_is_probed_once_and_again_when_it_is_another(
    runtime: EngineRuntime, attestor: Attestor, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from worker.runtimes.engine import probe

    probes: list[str] = []
    real = probe.probe

    def counted(*args: Any, **more: Any) -> Probed:
        probes.append(name)
        return real(*args, **more)

    monkeypatch.setattr(probe, "probe", counted)
    first = attestor.report(runtime)
    assert attestor.report(runtime) == first
    assert len(probes) == 1
    assert attestor.report(runtime, again=True).promises == first.promises
    assert len(probes) == 2
    monkeypatch.setattr(EngineRuntime, "identity", lambda self: "another version")
    attestor.report(runtime)
    assert len(probes) == 3


def test_two_processes_that_ask_at_once_probe_once(
    runtime: EngineRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker.runtimes.engine import probe

    probes: list[int] = []
    real = probe.probe

    def counted(*args: Any, **more: Any) -> Probed:
        probes.append(1)
        return real(*args, **more)

    monkeypatch.setattr(probe, "probe", counted)
    threads = [
        threading.Thread(target=lambda: Attestor(config(tmp_path)).report(runtime))
        for _ in range(3)
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(probes) == 1


def test_a_probe_that_hangs_is_given_up(
    runtime: EngineRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker.runtimes.engine import probe

    gate = threading.Event()
    monkeypatch.setattr(probe, "_probe", lambda *args: gate.wait(60))
    report = Attestor(config(tmp_path), within=0.2).report(runtime)
    gate.set()
    assert not report.usable
    assert "did not end within 0.2 s" in report.reason


def test_an_engine_that_takes_a_limit_and_does_not_apply_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says in `inspect` what it was asked for; the control group and the bomb say otherwise."""
    create, inspect = ContainerManager.create, ContainerManager.inspect
    asked: dict[str, Any] = {}

    def lying(self: ContainerManager, name: str, wanted: dict[str, Any]) -> str:
        asked.update(wanted["HostConfig"])
        host = {**asked, "Memory": 0, "MemorySwap": 0}
        return create(self, name, {**wanted, "HostConfig": host})

    def covering(self: ContainerManager, container: str) -> dict[str, Any]:
        seen = inspect(self, container)
        return {**seen, "HostConfig": {**seen["HostConfig"], **asked}}

    monkeypatch.setattr(ContainerManager, "create", lying)
    monkeypatch.setattr(ContainerManager, "inspect", covering)
    (tmp_path / "state").mkdir()
    runtime = engine_runtime_in("docker", tmp_path / "state", engine_socket("docker"))
    report = Attestor(config(tmp_path)).report(runtime)
    runtime.close()
    assert not report.usable
    assert "memory: wanted" in report.reason


def test_without_an_image_nothing_is_attested(
    runtime: EngineRuntime, attestor: Attestor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ContainerManager, "list_images", lambda self, prefix="": [])
    report = attestor.report(runtime)
    assert report.available
    assert not report.usable
    assert "no image here" in report.reason
    assert "docker.preload_images" in report.todo


def test_images_that_the_node_may_not_use_take_no_place_among_those_tried(tmp_path: Path) -> None:
    """Only so many are tried."""
    (tmp_path / "state").mkdir()
    rules = ImageRules(registry="crowd.test", allow=("mine/*",), policy=PullPolicy.NEVER)
    socket = engine_socket("docker")
    names = [*(f"crowd.test/executor:cpu-{n}.0" for n in range(6)), "mine/base:1"]
    client = engine.raw(socket)
    for name in names:
        client.tag(engine.BASE, *name.rsplit(":", 1))
    runtime = engine_runtime_in("docker", tmp_path / "state", socket, rules=rules)
    try:
        report = Attestor(config(tmp_path)).report(runtime)
    finally:
        runtime.close()
        for name in names:
            client.remove_image(name)
        client.close()
    assert report.usable, report.reason
    assert list(report.images) == ["mine/base:1"]


def test_a_damaged_memory_of_a_probe_is_none(
    runtime: EngineRuntime, attestor: Attestor, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "state" / "probes" / f"{name}.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"key": {}, "probed": 3}))
    assert set(keepings(attestor.report(runtime))) == PROMISES
    assert path.stat().st_size > 100
