"""What the compose files promise, as Compose itself reads them; no engine is needed for that."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import compose
from tests.support.guard import REPO
from worker.config import load

UNIT = compose.FILES / "cyxwiz-node.service"

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    compose.require()
    return compose.merged("compose.yaml", env=compose.PASSWORDS)


def test_every_service_is_confined_and_says_whether_it_is_well(plain: dict[str, Any]) -> None:
    assert set(plain["services"]) == {"accounts", "redis", "node", "flower", "prometheus"}
    for name, service in plain["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "cap_add" not in service, name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service.get("privileged"), name
        assert int(service["user"].split(":")[0]) > 0, name
        ends = service["restart"] == "no"
        assert ends == (name == "accounts"), name
        assert ends or service["healthcheck"]["test"], name
        for port in service.get("ports", ()):
            assert port["host_ip"] == "127.0.0.1", name
        for volume in service.get("volumes", ()):
            assert "docker.sock" not in volume.get("source", ""), name
            assert volume["type"] != "bind" or volume["read_only"], name


def test_redis_knows_no_password_and_starts_with_accounts_that_are_made(
    plain: dict[str, Any],
) -> None:
    redis, accounts = plain["services"]["redis"], plain["services"]["accounts"]
    assert "environment" not in redis
    (needed,) = redis["depends_on"].values()
    assert needed["condition"] == "service_completed_successfully"
    assert needed["restart"] is True, "new passwords, a new start"
    assert accounts["network_mode"] == "none"


@pytest.mark.parametrize("name", ["NODE", "PRODUCER", "MONITOR"])
def test_a_password_that_is_too_short_is_named_and_not_shown(name: str) -> None:
    env = {f"{one}_PASSWORD": "of-16-characters-1" for one in ("NODE", "PRODUCER", "MONITOR")}
    env |= {f"{name}_PASSWORD": "tiny12", "FLOWER_PROFILE": "read-only"}
    done = subprocess.run(
        [sys.executable, str(compose.FILES / "accounts.py")],
        env={**os.environ, **env, "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"CYXWIZ_{name}_PASSWORD in .env: password: at least 16" in done.stderr
    assert "tiny12" not in done.stderr


def test_there_are_two_nodes_which_reach_redis_alone(plain: dict[str, Any]) -> None:
    node = plain["services"]["node"]
    assert node["scale"] == 2
    assert set(node["networks"]) == {"hub"}
    assert plain["networks"]["hub"]["internal"] is True
    assert "environment" in node
    assert node["environment"]["CYXWIZ_REDIS_URL"].startswith("redis://node:")


@pytest.mark.parametrize("name", sorted(compose.PASSWORDS))
def test_no_password_has_a_default(name: str) -> None:
    compose.require()
    env = {key: text for key, text in compose.PASSWORDS.items() if key != name}
    with pytest.raises(AssertionError, match=f"{name}.*set it in .env"):
        compose.merged("compose.yaml", env=env)


def test_only_the_engines_file_gives_nodes_what_is_the_hosts() -> None:
    compose.require()
    found = compose.merged("compose.yaml", "compose.engine.yaml", env=compose.PASSWORDS)
    node = found["services"]["node"]
    assert node["pid"] == "host"
    assert "SYS_ADMIN" not in node["cap_add"]
    assert not node.get("privileged")
    sources = {one["source"]: one["target"] for one in node["volumes"] if one["type"] == "bind"}
    assert sources["/var/run/docker.sock"] == "/var/run/docker.sock"
    assert sources["/var/lib/cyxwiz"] == "/var/lib/cyxwiz", "one name on both sides"
    for name in ("accounts", "redis", "flower", "prometheus"):
        assert "docker.sock" not in json.dumps(found["services"][name])


def guides(name: str, directory: Path) -> dict[str, Any]:
    """compose.yaml with the file of that name that docs/deploy.md has over it."""
    compose.require()
    page = (REPO / "docs" / "deploy.md").read_text(encoding="utf-8")
    (text,) = [
        one for one in re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
        if name in one
    ]  # fmt: skip
    (directory / name).write_text(text)
    return compose.merged("compose.yaml", str(directory / name), env=compose.PASSWORDS)


def test_the_guides_nodes_with_data_reach_them_and_have_them_for_reading(tmp_path: Path) -> None:
    node = guides("compose.data.yaml", tmp_path)["services"]["node"]
    assert set(node["networks"]) == {"hub", "outside"}
    config = load(compose.FILES / "server-node.yaml", node["environment"])
    assert config.storage.schemes == ("builtin", "file", "https")
    (root,) = map(str, config.storage.roots)
    (data,) = [one for one in node["volumes"] if one["target"] == root]
    assert (data["type"], data["source"], data["read_only"]) == ("bind", root, True)
    assert "/etc/cyxwiz/server-node.yaml" in {one["target"] for one in node["volumes"]}


def test_the_guides_nodes_apart_share_no_volume(tmp_path: Path) -> None:
    found = guides("compose.apart.yaml", tmp_path)["services"]
    assert found["node"]["scale"] == 0
    one = found["node-a"]
    assert (one["scale"], one["command"], one["user"]) == (1, ["node"], "1000:1000")
    mounts = {mount["target"]: mount["source"] for mount in one["volumes"]}
    of_all = {mount["source"] for mount in found["node"]["volumes"] if mount["type"] == "volume"}
    assert not of_all & set(mounts.values())
    assert mounts[one["environment"]["CYXWIZ_NODE__STATE_DIR"]] == "node-a"
    assert "replica.py" not in " ".join(one["entrypoint"])
    assert one["networks"]["hub"]["aliases"] == ["node"]
    assert one["healthcheck"] == found["node"]["healthcheck"]


def test_the_gpu_file_asks_for_every_gpu_once() -> None:
    compose.require()
    found = compose.merged(
        "compose.yaml", "compose.engine.yaml", "compose.gpu.yaml", env=compose.PASSWORDS
    )
    node = found["services"]["node"]
    assert node["scale"] == 1
    (devices,) = node["deploy"]["resources"]["reservations"]["devices"]
    assert (devices["driver"], devices["count"]) == ("nvidia", -1)


def test_the_example_of_the_environment_names_what_is_asked_for() -> None:
    text = (compose.FILES / ".env.example").read_text()
    asked = set()
    for path in compose.FILES.glob("compose*.yaml"):
        asked |= {part.split("}")[0].split(":")[0] for part in path.read_text().split("${")[1:]}
        yaml.safe_load(path.read_text())
    assert {name for name in asked if f"{name}=" not in text} == set()


def test_systemd_understands_the_unit_which_leaves_jobs_running_at_a_stop(tmp_path: Path) -> None:
    text = UNIT.read_text()
    assert re.search(r"^KillMode=process$", text, re.MULTILINE)
    assert re.search(r"^KillSignal=SIGUSR1$", text, re.MULTILINE)
    tool = shutil.which("systemd-analyze")
    if tool is None:
        missing = "systemd-analyze is not on PATH (Debian: apt-get install systemd)"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(missing)
    here = tmp_path / UNIT.name  # a user and a program that this host has
    text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.MULTILINE)
    here.write_text(re.sub(r"^User=.*", "User=root", text, flags=re.MULTILINE))
    done = subprocess.run([tool, "verify", str(here)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "")


def test_no_volume_is_anonymous_and_artefacts_may_be_in_a_directory_of_the_host(
    plain: dict[str, Any],
) -> None:
    for name, service in plain["services"].items():
        assert all(one.get("source") for one in service.get("volumes", ())), name
    mounts = {one["target"]: one for one in plain["services"]["node"]["volumes"]}
    kept = mounts["/var/lib/cyxwiz-artifacts"]
    assert (kept["type"], kept["source"]) == ("volume", "artifacts")
    for files, env, where in (
        (["compose.yaml"], {"CYXWIZ_ARTIFACTS": "/srv/cyxwiz"}, "/srv/cyxwiz"),
        (["compose.yaml", "compose.engine.yaml"], {"CYXWIZ_STATE": "/s"}, "/s/artifacts"),
    ):
        node = compose.merged(*files, env={**compose.PASSWORDS, **env})["services"]["node"]
        assert node["environment"]["CYXWIZ_STORAGE__ARTIFACTS"] == where
        binds = {one["source"]: one["target"] for one in node["volumes"] if one["type"] == "bind"}
        assert any(where.startswith(f"{one}/") or where == one for one in binds), binds
        assert all(binds[one] == one for one in binds if where.startswith(one))


def test_nodes_that_are_alike_have_a_name_and_a_state_each_which_successors_take_over(
    tmp_path: Path,
) -> None:
    fake = tmp_path / "worker"
    fake.mkdir()
    (fake / "__init__.py").touch()
    (fake / "cli.py").write_text(
        "import os, sys\n"
        "print(os.environ['CYXWIZ_NODE__NAME'], os.environ['CYXWIZ_NODE__STATE_DIR'], "
        "*sys.argv[1:], flush=True)\n"
        "sys.stdin.read()\n"
    )
    states = tmp_path / "states"
    states.mkdir()

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(compose.FILES / "replica.py"), "node", "--now"],
            env={"CYXWIZ_STATE": str(states)},
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def said(process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        return process.stdout.readline().strip()

    running = {said(one): one for one in [start() for _ in range(4)]}  # at one time
    lines = [f"node-{n} {states}/node-{n} node --now" for n in range(1, 5)]
    try:
        assert sorted(running) == lines
        assert (states / "node-1").stat().st_mode & 0o777 == 0o700
        dead = running.pop(lines[1])
        dead.kill()
        dead.communicate()
        running["again"] = start()
        assert said(running["again"]) == lines[1]
        running["more"] = start()
        assert said(running["more"]).startswith("node-5 ")
    finally:
        for one in running.values():
            one.communicate("")
