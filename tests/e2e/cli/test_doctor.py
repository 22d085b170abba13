"""``cyxwiz doctor``, help and tracebacks."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.support.cli import Cli

pytestmark = pytest.mark.e2e


def test_doctor_says_what_can_run_here(cli: Cli) -> None:
    config = ("--config", str(cli.cwd / "server-node.yaml"))
    done = cli("doctor", *config)
    assert done.code == 0, done
    assert "jobs can run here" in done.out
    found = cli("doctor", "--json", *config).json
    assert found["ok"] is True
    checks = {check["name"]: check for check in found["checks"]}
    assert set(checks) >= {
        *("platform", "python", "configuration", "cpu, memory", "state directory", "redis"),
        *("redis-server", "native jobs", "runner", "docker", "podman", "gpus (nvidia)", "policy"),
    }
    assert checks["native jobs"]["verdict"] == "ok"
    assert checks["redis"]["verdict"] == "ok"
    for check in found["checks"]:
        assert set(check) == {"name", "verdict", "found", "why", "todo", "items"}
        assert (check["verdict"] == "ok") == (check["why"] == "" and check["todo"] == "")


def test_doctor_tells_of_an_engine_promise_by_promise(cli: Cli, tmp_path: Path) -> None:
    from tests.support import engine

    env = {"CYXWIZ_DOCKER__SOCKET": str(engine.shared()), "CYXWIZ_PODMAN__ENABLED": "false"}
    env |= {"CYXWIZ_NODE__STATE_DIR": str(tmp_path / "state")}
    found = cli("doctor", "--json", "--probe", env=env).json
    assert found["capabilities"]["max_sandbox_level"] == "full"
    assert found["capabilities"]["docker_available"] is True
    assert found["capabilities"]["podman_available"] is False
    checks = {check["name"]: check for check in found["checks"]}
    assert checks["docker"]["verdict"] == "ok"
    assert {item["keeping"] for item in checks["docker"]["items"]} == {"enforced"}
    assert "podman.enabled is false" in checks["podman"]["why"]
    assert "in containers of docker" in checks["policy"]["found"]
    assert not (tmp_path / "state").exists(), "doctor leaves nothing"
    table = cli("doctor", env=env).out
    assert "memory" in table
    assert "enforced: memory 134217728" in table


def test_doctor_says_what_is_wrong_with_a_socket_that_is_no_engines(
    cli: Cli, tmp_path: Path
) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=_hang_up, args=(listener,), daemon=True)
        thread.start()
        env = {"CYXWIZ_DOCKER__SOCKET": str(path), "CYXWIZ_EXECUTION__MODE": "docker"}
        checks = {one["name"]: one for one in cli("doctor", "--json", env=env).json["checks"]}
    assert checks["docker"]["verdict"] == "missing"
    assert "no container engine" in checks["docker"]["why"]


def _hang_up(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            listener.accept()[0].close()


def test_doctor_ends_with_1_where_no_job_can_run(cli: Cli, tmp_path: Path) -> None:
    def blocking(env: dict[str, str], *args: str) -> dict[str, dict[str, str]]:
        done = cli("doctor", "--json", *args, env=env)
        assert done.code == 1, done
        return {one["name"]: one for one in done.json["checks"] if one["verdict"] == "blocks"}

    state = {"CYXWIZ_NODE__STATE_DIR": str(tmp_path / "state")}
    assert "allow_untrusted_native" in blocking(state)["policy"]["todo"]
    trusting = {**state, "CYXWIZ_EXECUTION__ALLOW_UNTRUSTED_NATIVE": "true"}
    refused = blocking(trusting, "--redis", "redis://:hunter2@127.0.0.1:1/0")
    assert list(refused) == ["redis"]
    assert "hunter2" not in json.dumps(refused)
    wrong = blocking({**trusting, "CYXWIZ_EXECUTION__MODE": "nativ"})
    assert "CYXWIZ_EXECUTION__MODE" in wrong["configuration"]["why"]
    no_python = blocking({**trusting, "CYXWIZ_NATIVE__INTERPRETER": str(tmp_path / "python")})
    assert list(no_python) == ["native jobs"]
    (tmp_path / "file").touch()
    no_room = blocking({**trusting, "CYXWIZ_NODE__STATE_DIR": str(tmp_path / "file" / "state")})
    assert list(no_room) == ["state directory"]
    assert [path.name for path in tmp_path.iterdir()] == ["file"], "doctor leaves nothing"


def test_help_and_version_load_no_celery(cli: Cli) -> None:
    code = (
        "import sys\n"
        "from worker.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "finally:\n    assert not {'celery', 'redis', 'pydantic'} & set(sys.modules)\n"
    )
    for args, said in (
        (["--help"], "follow      Show every event"),
        (["--version"], "cyxwiz "),
        (["submit", "--help"], "--set KEY=VALUE"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *args],
            capture_output=True,
            text=True,
            env=cli.environment(),
            timeout=60,
            check=True,
        )
        assert said in done.stdout


def test_debug_shows_the_traceback(cli: Cli) -> None:
    done = cli("--debug", "job", "nobody-knows-it")
    assert done.code == 5
    assert "Traceback" in done.err
