"""``cyxwiz node``, and the Redis that commands talk to."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import Cli, Started
from tests.support.cli_jobs import python
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(
    "command",
    [
        ("submit", "-"),
        ("follow", "x"),
        ("job", "x"),
        ("jobs",),
        ("logs", "x"),
        ("cancel", "x"),
        ("retry", "x"),
        ("checkpoint", "x"),
        ("node",),
    ],
    ids=lambda command: str(command[0]),
)
def test_a_redis_that_refuses_is_named_without_its_password(
    cli: Cli, tmp_path: Path, command: tuple[str, ...]
) -> None:
    url = "redis://user:hunter2@127.0.0.1:1/3"
    env = {"CYXWIZ_NODE__STATE_DIR": str(tmp_path / "state")}
    done = cli(*command, "--redis", url, stdin=python("pass"), env=env)
    assert done.code == 4
    assert "redis://user:***@127.0.0.1:1/3" in done.err
    assert "hunter2" not in done.err + done.out
    assert "Traceback" not in done.err


def test_a_redis_that_does_not_answer_is_named(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"redis://127.0.0.1:{deaf.getsockname()[1]}/0"
        done = cli("job", "x", "--redis", url)
    assert done.code == 4
    assert url in done.err


def test_the_option_comes_before_the_variable(cli: Cli, hub: RedisServer, done_job: str) -> None:
    env = {"CYXWIZ_REDIS_URL": "redis://127.0.0.1:1/0"}
    assert cli("job", done_job, env=env).code == 4
    assert cli("job", done_job, "--redis", hub.tcp_url, env=env).code == 0


def test_what_is_no_url_is_refused(cli: Cli) -> None:
    done = cli("job", "x", "--redis", "somewhere")
    assert done.code == 3
    assert "--redis: somewhere is no URL of a Redis" in done.err


@pytest.fixture
def start(hub: RedisServer, tmp_path: Path) -> Iterator[Any]:
    """Starts commands beside the module's node; ends them."""
    cli = Cli(cwd=tmp_path)
    started: list[Started] = []

    def start(*args: str, **env: str) -> Started:
        started.append(cli.start(*args, env=env))
        return started[-1]

    yield start
    for one in started:
        one.close()


def test_a_second_node_of_a_directory_or_name_is_refused(cli: Cli, tmp_path: Path) -> None:
    config = str(cli.cwd / "server-node.yaml")
    second = cli("node", "--config", config)
    assert second.code == 6
    assert f"{cli.cwd / 'state'}: an agent runs there already" in second.err
    env = {"CYXWIZ_NODE__STATE_DIR": str(tmp_path / "other")}
    namesake = cli("node", "--config", config, env=env)
    assert namesake.code == 6
    assert "node name 'node-a' is taken" in namesake.err


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("execution:\n  mode: nativ\n", ":2: execution.mode: must be"),
        ("execution: {mode: auto}\nexecutoin: {}\n", ":2: executoin: unknown key; did you mean"),
        ("docker: [\n", ":2: not YAML"),
    ],
)
def test_a_wrong_configuration_is_refused_with_its_line(
    cli: Cli, tmp_path: Path, text: str, names: str
) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    done = cli("node", "--config", str(path))
    assert done.code == 3
    assert f"{path}{names}" in done.err
    assert cli("node", "--config", str(tmp_path / "none.yaml")).code == 3


def test_windows_is_refused_and_wsl2_named(cli: Cli) -> None:
    # only what the platform is, not how its libraries behave: those are loaded before
    code = (
        "import sys, click, rich.console, asyncio, subprocess, redis\n"
        "sys.platform = 'win32'\n"
        "from worker.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    for command in ("node", "demo"):
        done = subprocess.run(
            [sys.executable, "-c", code, command],
            capture_output=True,
            text=True,
            env=cli.environment(),
            cwd=cli.cwd,
            timeout=60,
            check=False,
        )
        assert done.returncode == 9, done
        assert "WSL2" in done.stderr


def test_a_users_own_tasks_py_is_named(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text("")
    done = Cli(cwd=tmp_path, env={**cli.env, "PYTHONPATH": str(tmp_path)}).fresh("job", "x")
    assert done.code == 3
    assert f"{tmp_path / 'tasks.py'} stands before this project's package" in done.err


def test_a_node_without_a_redis_starts_its_own_and_this_users_commands_find_it(
    start: Any, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    env = {
        "CYXWIZ_NODE__STATE_DIR": str(state),
        "CYXWIZ_EXECUTION__ALLOW_UNTRUSTED_NATIVE": "true",
        "CYXWIZ_SLOTS__CPU": "1",
    }
    node = start("node", **env)
    node.wait_said("node ready")
    cli = Cli(cwd=tmp_path, env=env)
    done = cli("submit", "-", "--follow", stdin=python("pass"))
    assert done.code == 0, done
    other = cli("node")
    assert other.code == 6
    assert "an agent runs there already" in other.err
    assert node.end().code == 0
    assert not (state / "redis.url").exists()
    assert cli("jobs").code == 4
