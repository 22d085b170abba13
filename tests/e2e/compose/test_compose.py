"""``docker compose up``: a cluster in containers whose nodes train in sandboxes."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import redis

from tests.support import compose, engine
from tests.support.cli import Cli
from tests.support.compose import Stack
from tests.support.flower import AUTHORIZATION
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

OVERRIDE = {
    "services": {
        "node": {
            "environment": {
                "CYXWIZ_DOCKER__PULL_POLICY": "never",
                "CYXWIZ_TIMEOUTS__LEASE_TTL": "6",
                "CYXWIZ_TIMEOUTS__LEASE_GRACE": "2",
                "CYXWIZ_SLOTS__CPU": "1",
            }
        }
    }
}
TRAINING = {
    "model_definition": {
        "layers": [
            {"type": "Dense", "units": 16, "activation": "relu"},
            {"type": "Dense", "units": 10, "activation": "softmax"},
        ]
    },
    "dataset_uri": "builtin:digits",
    "epochs": 3,
    "memory_mb": 600,
}
UNTIL = "import sys, time\nwhile time.time() < float(sys.argv[1]): time.sleep(0.1)\nprint('over')"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with compose.stack(tmp_path_factory.mktemp("compose"), override=OVERRIDE) as stack:
        yield stack


@pytest.fixture
def cli(stack: Stack, tmp_path: Path) -> Cli:
    """The command on this host, as a producer."""
    return Cli(cwd=tmp_path, env={"CYXWIZ_REDIS_URL": stack.redis("producer")})


@pytest.fixture
def raw(stack: Stack) -> Iterator[docker.APIClient]:
    client = engine.raw(stack.socket)
    yield client
    client.close()


def asked(url: str, *, login: bool = False) -> tuple[int, str]:
    request = urllib.request.Request(url)
    if login:
        request.add_header("Authorization", AUTHORIZATION)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:  # loopback
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""


def node_of(cli: Cli, job_id: str) -> str:
    found: str = cli("job", job_id, "--json").json["node"]
    return found


def test_a_job_from_the_host_trains_on_a_node_in_a_sandbox(stack: Stack, cli: Cli) -> None:
    nodes = cli("nodes", "--json").json["nodes"]
    assert [(one["status"], one["sandbox_level"]) for one in nodes] == [("alive", 2)] * 2
    done = cli("submit", "-", "--follow", "--json", stdin=json.dumps(TRAINING), timeout=240)
    assert done.code == 0, done
    said = {one["type"]: one for one in done.lines}
    assert (said["admitted"]["mode"], said["admitted"]["sandbox_level"]) == ("docker", 2)
    assert said["progress"]["epoch"] == 3
    assert said["succeeded"]["result"]["mode"] == "docker"

    job_id = said["succeeded"]["job_id"]
    assert asked(f"{stack.url('flower')}/tasks") == (401, "")
    wait_until(
        lambda: asked(f"{stack.url('flower')}/task/{job_id}", login=True)[0] == 200,
        timeout=60,
        what="the job in Flower",
    )
    assert asked(f"{stack.url('flower')}/metrics")[0] == 401

    def ends() -> float:
        query = "sum(cyxwiz_attempts_ended_total)"
        _, text = asked(f"{stack.url('prometheus')}/api/v1/query?query={query}")
        found = json.loads(text)["data"]["result"]
        return float(found[0]["value"][1]) if found else 0.0

    wait_until(lambda: ends() >= 1, timeout=60, what="the job in Prometheus")


def test_a_job_whose_node_is_killed_ends_on_the_other(
    stack: Stack, cli: Cli, raw: docker.APIClient
) -> None:
    job = {
        "command": ["python3", "-S", "-c", UNTIL, str(time.time() + 20)],
        "memory_mb": 64,
    }
    job_id = cli("submit", "-", stdin=json.dumps(job)).out.strip()
    wait_until(
        lambda: cli("job", job_id, "--json").json["state"] == "running", timeout=90, what="runs"
    )
    first = node_of(cli, job_id)
    raw.kill(first)  # its name is its container's id
    done = cli("follow", job_id, timeout=180)
    assert done.code == 0, done
    assert "did not renew its lease" in done.out
    assert node_of(cli, job_id) != first
    stack.compose("up", "-d", "--wait", "--wait-timeout", "300")  # the dead one comes back


def test_each_role_reaches_what_is_the_projects_and_nothing_of_the_server(stack: Stack) -> None:
    for role in ("node", "producer", "monitor"):
        client = redis.Redis.from_url(stack.redis(role), decode_responses=True)
        assert client.ping()
        client.hset("cyxwiz:test", "a", "b")
        client.delete("cyxwiz:test")
        forbidden: list[Any] = [
            lambda client=client: client.set("other:key", "x"),
            lambda client=client: client.config_get("*"),
            lambda client=client: client.flushall(),
            lambda client=client: client.keys(),
            lambda client=client: client.acl_list(),
            lambda client=client: client.publish("other", "x"),
        ]
        for ask in forbidden:
            with pytest.raises(redis.exceptions.NoPermissionError):
                ask()
        client.close()
    url = f"redis://127.0.0.1:{stack.env['CYXWIZ_REDIS_PORT']}/0"
    with pytest.raises(redis.exceptions.AuthenticationError):
        redis.Redis.from_url(url).ping()


def test_a_wrong_password_is_named_without_being_shown(stack: Stack, cli: Cli) -> None:
    url = stack.redis("producer").replace("producer1", "wrong1")
    done = cli("nodes", "--redis", url)
    assert done.code == 4
    assert "invalid username-password pair" in done.err
    assert "wrong1" not in done.err


def test_more_nodes_come_with_scale(stack: Stack, cli: Cli) -> None:
    stack.compose(
        "up", "-d", "--wait", "--wait-timeout", "300", "--scale", "node=3", "--no-recreate"
    )
    wait_until(
        lambda: cli("top", "--json").json["capacity"]["nodes"] == 3, timeout=60, what="three nodes"
    )
