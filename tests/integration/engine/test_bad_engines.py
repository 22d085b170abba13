"""Engines that are broken, hang, lie or change: what a node says of them, and what it still does.

Each is a real engine with something between it and the node that does the harm.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.engine.jobs import Jobs
from tests.support import engine, podman
from tests.support.engine_proxy import Answer, EngineProxy, Request
from tests.support.nodes import holders
from tests.support.podman import Podman
from tests.support.runtimes import engine_socket
from tests.support.waiting import wait_until
from worker.attestor import Attestor
from worker.config import NodeConfig
from worker.engines import Engines, EngineState
from worker.runtimes import engine_runtime
from worker.runtimes.engine.errors import SandboxUnavailable
from worker.sandbox.engine_report import EngineReport
from worker.sandbox.profile import LEAST_PIDS

pytestmark = pytest.mark.integration

OTHER = {"docker": "podman", "podman": "docker"}
NO_IDS = (
    b'{"message": "keep-id requires additional UIDs or GIDs defined in /etc/subuid and '
    b'/etc/subgid to function correctly: %!w(<nil>)"}'
)


@pytest.fixture(params=["docker", pytest.param("podman", marks=pytest.mark.podman)])
def name(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture
def proxy(name: str) -> Iterator[EngineProxy]:
    with EngineProxy(engine_socket(name)) as made:
        yield made


@pytest.fixture
def proxied_podman() -> Iterator[EngineProxy]:
    with EngineProxy(engine_socket("podman")) as made:
        yield made


def config(root: Path, *, mode: str = "auto", accept: bool = True, **sockets: Path) -> NodeConfig:
    """Of a node that may use the engines that have ``sockets``. ``accept``: memory that a Podman
    does not keep."""
    (root / "state").mkdir(exist_ok=True)
    sections: dict[str, Any] = {
        one: {
            "enabled": one in sockets,
            **({"socket": str(sockets[one])} if one in sockets else {}),
        }
        for one in OTHER
    }
    sections["podman"]["accept_unenforced"] = ["memory"] if accept else []
    sections["docker"]["pull_policy"] = "never"
    return NodeConfig.model_validate(
        {
            "node": {"name": "test-node", "state_dir": str(root / "state")},
            "execution": {"mode": mode},
            **sections,
        }
    )


def state(made: NodeConfig) -> EngineState:
    engines = Engines(made, abandon_after=1)
    try:
        return engines.state()
    finally:
        engines.close()


def report(made: NodeConfig, name: str, **differs: Any) -> EngineReport:
    runtime = engine_runtime(name, made, abandon_after=1.0)
    try:
        return Attestor(made, **differs).report(runtime)
    finally:
        runtime.close()


def containers(socket: Path, root: Path) -> list[str]:
    """Of nodes beneath ``root``."""
    raw = engine.raw(socket)
    found = [
        one["Names"][0]
        for one in raw.containers(all=True)
        if str(root) in str((one["Labels"] or {}).get("org.cyxwiz.state"))
    ]
    raw.close()
    return found


def test_of_two_engines_the_one_that_is_whole_is_used(
    name: str, proxy: EngineProxy, tmp_path: Path
) -> None:
    """The other one takes connections, and never starts a container."""
    whole, other = engine_socket(name), OTHER[name]
    (tmp_path / "gone").mkdir()
    found = state(config(tmp_path, **{name: whole, other: tmp_path / "gone"}))
    assert (found.name, found.usable, found.reason) == (name, True, "")
    # what it was told to use, it does not replace by something else
    named = state(config(tmp_path, mode=other, **{name: whole, other: tmp_path / "gone"}))
    assert (named.name, named.usable) == (other, False)
    assert f"{other} at {tmp_path / 'gone'}" in named.reason
    # an engine at the other's socket is known for what it is
    swapped = state(config(tmp_path, mode=other, **{other: whole}))
    assert not swapped.usable
    assert f"is not {other}: it calls itself" in swapped.reason


def test_a_probe_that_hangs_in_the_engine_is_given_up(
    name: str, proxy: EngineProxy, tmp_path: Path
) -> None:
    real = engine_socket(name)
    proxy.hangs(r"POST .*/start")
    found = report(config(tmp_path, **{name: proxy.socket}), name, within=1.0)
    assert found.available
    assert not found.usable
    assert "did not end within 1 s" in found.reason
    assert len(containers(real, tmp_path)) == 1, "it was made, and not started"
    proxy.honest()  # the engine comes to, and says no
    wait_until(lambda: not containers(real, tmp_path), timeout=30, what="nothing is left")
    wait_until(lambda: not holders(tmp_path), timeout=30, what=lambda: f"of {holders(tmp_path)}")


def test_a_limit_that_is_taken_and_not_applied_is_seen(
    name: str, proxy: EngineProxy, tmp_path: Path
) -> None:
    """Docker says in `inspect` what it was asked for; Podman, that it keeps all limits."""
    if name == "docker":
        asked: dict[str, Any] = {}

        def without(request: Request, ask: Callable[[Request], Answer]) -> Answer:
            asked.update(json.loads(request.body)["HostConfig"])
            less = {"Memory": 0, "MemorySwap": 0}
            return ask(request.with_json(lambda content: content["HostConfig"].update(less)))

        proxy.rule(r"POST .*/containers/create", without)
        proxy.changes(
            r"GET .*/containers/[^/]+/json$",
            lambda seen: seen["HostConfig"].update(
                Memory=asked["Memory"], MemorySwap=asked["MemorySwap"]
            ),
        )
    else:
        v2 = {"cgroupVersion": "v2", "cgroupControllers": ["cpu", "memory", "pids"]}
        proxy.changes(r"GET .*/libpod/info", lambda info: info["host"].update(v2))
        limits = {"Memory": 128 << 20, "MemorySwap": 128 << 20, "PidsLimit": LEAST_PIDS}
        limits["CpuQuota"] = 100_000
        proxy.changes(
            r"GET .*/libpod/containers/[^/]+/json$", lambda seen: seen["HostConfig"].update(limits)
        )
    found = report(config(tmp_path, accept=False, **{name: proxy.socket}), name)
    assert found.available
    assert not found.usable
    assert "memory: wanted" in found.reason
    assert containers(engine_socket(name), tmp_path) == []


def test_an_engine_of_another_version_is_got_to_know_anew(
    name: str, proxy: EngineProxy, tmp_path: Path
) -> None:
    """Under a node that runs: by the next job it has been probed again."""
    engines = Engines(config(tmp_path, **{name: proxy.socket}), abandon_after=1)
    kept = tmp_path / "state" / "probes" / f"{name}.json"
    try:
        before = engines.state(now=True)
        assert before.usable, before.reason
        first = json.loads(kept.read_bytes())["at"]
        same = engines.state(now=True)  # but for its images, of which other tests make some
        assert (same.usable, same.version) == (True, before.version)
        assert json.loads(kept.read_bytes())["at"] == first

        def newer(request: Request, ask: Callable[[Request], Answer]) -> Answer:
            answer = ask(request)
            server = answer.server.replace(before.version, "97.5")
            body = answer.body.replace(before.version.encode(), b"97.5")
            return Answer(answer.status, body, server, answer.api)

        proxy.rule(r"GET .*/(_ping|version)$", newer)
        after = engines.state(now=True)
        assert (after.usable, after.version) == (True, "97.5")
        assert json.loads(kept.read_bytes())["at"] > first
    finally:
        engines.close()


def test_a_toolkit_with_known_holes_is_warned_of(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    made = config(tmp_path, **{name: engine_socket(name)})
    for version, holes in (("1.16.1", True), ("1.17.8", False)):
        installed = programs / "nvidia-ctk"
        said = f"NVIDIA Container Toolkit CLI version {version}"
        installed.write_text(f"#!/bin/sh\nprintf '{said}\\ncommit: 1\\n'\n")
        installed.chmod(0o755)
        found = report(made, name)
        assert found.usable, found.reason
        assert found.facts.toolkit.startswith(version)
        assert any("toolkit 1.16.1 has known holes" in one for one in found.warnings) == holes


@pytest.mark.podman
def test_without_subordinate_ids_podman_is_refused_with_the_way_to_give_them(
    proxied_podman: EngineProxy, tmp_path: Path
) -> None:
    proxied_podman.changes(
        r"GET .*/libpod/info",
        lambda info: info["host"]["idMappings"].update(
            uidmap=[one for one in info["host"]["idMappings"]["uidmap"] if one["size"] == 1]
        ),
    )
    found = report(config(tmp_path, podman=proxied_podman.socket), "podman")
    assert not found.available
    assert "has no subordinate ids" in found.reason
    assert "usermod --add-subuids" in found.reason


@pytest.mark.podman
def test_that_there_are_no_subordinate_ids_is_asked_again(
    proxied_podman: EngineProxy, tmp_path: Path
) -> None:
    denials = [2]

    def denying(request: Request, ask: Callable[[Request], Answer]) -> Answer:
        denials[0] -= 1
        return Answer(500, NO_IDS) if denials[0] >= 0 else ask(request)

    proxied_podman.rule(r"POST .*/libpod/containers/create", denying)
    jobs = Jobs(tmp_path, proxied_podman.socket, engine="podman")
    try:
        heard, _ = jobs.run("print('made')")
        assert heard.out == b"made\n"
        before = jobs.containers()
        denials[0] = 1000
        with pytest.raises(SandboxUnavailable, match="usermod --add-subuids"):
            jobs.start("print('never')")
        assert jobs.containers() == before
    finally:
        jobs.close()


@pytest.mark.podman
def test_podman_with_vfs_and_a_crun_that_refuses(tmp_path: Path) -> None:
    podman.require()
    with Podman(driver="vfs", runtime="crun") as own:
        engine.import_base(own.socket)
        made = config(tmp_path, podman=own.socket)
        asking = made.podman.model_copy(update={"runtime": "runc"})
        for one in (made, made.model_copy(update={"podman": asking})):
            crun = report(one, "podman")
            assert crun.available
            if one is made and crun.usable:
                continue  # this host has control groups of one version
            assert not crun.usable
            assert "cgroup" in crun.reason or "wanted runc, found crun" in crun.reason
            assert 'runtime = "runc"' in crun.todo
        own.configure(driver="vfs", runtime="runc")
        own.stop()
        own.start()
        runc = report(made, "podman")
        assert runc.usable, runc.reason
        assert any("vfs, which copies the whole image" in text for text in runc.warnings)
