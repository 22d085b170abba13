"""``docker compose up``: a cluster in containers whose nodes train in sandboxes."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker
import pytest
import redis

from tasks.trust import SigningKey
from tests.support import compose, engine
from tests.support.cli import Cli
from tests.support.compose import Stack
from tests.support.flower import AUTHORIZATION
from tests.support.guard import REPO
from tests.support.waiting import wait_until
from worker.trust.acl import Role, acl_line

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

OVERRIDE = {
    "services": {
        "node": {
            "environment": {
                "CYXWIZ_DOCKER__PULL_POLICY": "never",
                "CYXWIZ_TRUST__KEYS": "[/etc/cyxwiz/keys/alice.pub]",
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
    "memory_mb": 600,
}
SCRIPT = (REPO / "examples" / "scripts" / "train.py").read_text()
"""Of the standard library alone: the node's image has no framework for native jobs."""
SECOND_ENDS = """
import base64, json, os, time
attempt = json.loads(base64.b64decode(os.environ["CYXWIZ_JOB_CONFIG"]))["attempt"]
while attempt == 1:
    time.sleep(0.1)
print("over")
"""


@pytest.fixture(scope="module")
def alice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a key: alice.key, and keys/alice.pub whose jobs may run natively."""
    directory = tmp_path_factory.mktemp("alice")
    keys = directory / "keys"
    keys.mkdir()
    keys.chmod(0o755)
    key = SigningKey.generate()
    key.save(directory / "alice.key")
    about = {"name": "alice", "public_key": str(key.public), "scope": {"native": True}}
    (keys / "alice.pub").write_text(json.dumps(about))
    (keys / "alice.pub").chmod(0o644)
    return directory


@pytest.fixture(scope="module")
def plain(alice: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """compose.yaml as it stands, but for the key and short leases."""
    place = tmp_path_factory.mktemp("compose")
    with compose.stack(place, alice / "keys", override=OVERRIDE) as stack:
        yield stack


@pytest.fixture(scope="module")
def stack(plain: Stack) -> Stack:
    """The same cluster, to which compose.engine.yaml is added, as an operator would."""
    engine.executor()
    found = plain.with_engine()
    found.up()
    return found


@pytest.fixture
def cli(plain: Stack, tmp_path: Path) -> Cli:
    """The command on this host, as a producer."""
    return Cli(cwd=tmp_path, env={"CYXWIZ_REDIS_URL": plain.redis("producer")})


@pytest.fixture
def raw(plain: Stack) -> Iterator[docker.APIClient]:
    client = engine.raw(plain.socket)
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


def container_of(cli: Cli, node: str) -> str:
    """The id of a node's container, which is its host's name."""
    found = {one["name"]: one for one in cli("nodes", "--json").json["nodes"]}
    hostname: str = found[node]["record"]["hostname"]
    return hostname


def trained(cli: Cli, mode: str, level: int, *signed: str, **more: Any) -> str:
    """Train from the host, following it, in ``mode``; the job's id."""
    nodes = cli("nodes", "--json").json["nodes"]
    assert [one["sandbox_level"] for one in nodes if one["status"] == "alive"] == [level] * 2
    job = json.dumps({**(more or TRAINING), "epochs": 3})
    done = cli("submit", "-", "--follow", "--json", *signed, stdin=job, timeout=120)
    assert done.code == 0, done
    said = {one["type"]: one for one in done.lines}
    assert (said["admitted"]["mode"], said["admitted"]["sandbox_level"]) == (mode, level)
    assert said["progress"]["epoch"] == 3
    assert said["succeeded"]["result"]["mode"] == mode
    job_id: str = said["succeeded"]["job_id"]
    return job_id


def ends_elsewhere(
    cli: Cli, raw: docker.APIClient, *signed: str, **more: Any
) -> tuple[str, str, str]:
    """A job whose node is killed while it runs ends on the other. The job, the killed node, and
    its container."""
    job = {"command": ["python3", "-S", "-c", SECOND_ENDS], **more}
    job_id = cli("submit", "-", *signed, stdin=json.dumps(job)).out.strip()
    wait_until(
        lambda: cli("job", job_id, "--json").json["state"] == "running", timeout=90, what="runs"
    )
    first = node_of(cli, job_id)
    container = container_of(cli, first)
    raw.kill(container)
    done = cli("follow", job_id, timeout=120)
    assert done.code == 0, done
    assert "did not renew its lease" in done.out
    assert node_of(cli, job_id) != first
    return job_id, first, container


def test_as_it_stands_it_trains_what_is_signed_and_outlives_a_node(
    plain: Stack, cli: Cli, raw: docker.APIClient, alice: Path
) -> None:
    """Healthy within a minute: the fixture waits no longer."""
    signed = ("--key", str(alice / "alice.key"))
    trained(cli, "native", 0, *signed, command=["python3", "-S", "-c", SCRIPT], sandbox="none")
    done = cli("submit", "-", stdin=json.dumps({"command": ["true"]}))
    assert done.code == 0, done
    assert "waits until a node can serve it" in done.err
    assert cli("cancel", done.out.strip()).code == 0
    _, name, _ = ends_elsewhere(cli, raw, *signed, sandbox="none")
    plain.up()
    assert names(cli) == ["node-1", "node-2"]
    assert container_of(cli, name), "the dead one came back, under its name"


def names(cli: Cli) -> list[str]:
    """Of the nodes that live."""
    found = cli("nodes", "--json").json["nodes"]
    return [one["name"] for one in found if one["status"] == "alive"]


def test_what_a_job_leaves_is_in_a_volume_that_it_can_be_copied_from(
    plain: Stack, cli: Cli, alice: Path, tmp_path: Path
) -> None:
    code = "import os; open(os.environ['CYXWIZ_OUTPUT'] + '/answer', 'w').write('42')"
    job = {"command": ["python3", "-S", "-c", code], "sandbox": "none"}
    done = cli(
        "submit", "-", "--follow", "--json", "--key", str(alice / "alice.key"),
        stdin=json.dumps(job), timeout=120,
    )  # fmt: skip
    assert done.code == 0, done
    job_id = done.lines[-1]["job_id"]
    assert cli("get", job_id).code == 11, "it is not on this host"
    place = f"node:/var/lib/cyxwiz-artifacts/{job_id}"  # whichever node
    plain.compose("cp", place, str(tmp_path / "copied"))
    (found,) = (tmp_path / "copied").rglob("answer")
    assert found.read_text() == "42"


def test_a_job_from_the_host_trains_on_a_node_in_a_sandbox(stack: Stack, cli: Cli) -> None:
    job_id = trained(cli, "docker", 2)
    assert cli("get", job_id).code == 0
    assert any((cli.cwd / job_id).iterdir()), "what it left, from a directory of this host"
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
    job_id, name, container = ends_elsewhere(cli, raw, memory_mb=64)

    def left() -> list[Any]:
        labels = [f"org.cyxwiz.job={job_id}", f"org.cyxwiz.node={name}"]
        return list(raw.containers(all=True, filters={"label": labels}))

    assert len(left()) == 1, "its job's container outlives a node that is killed"
    raw.remove_container(container)
    stack.up()
    assert names(cli) == ["node-1", "node-2"]
    assert container_of(cli, name) != container, "another container is the same node"
    wait_until(lambda: not left(), timeout=30, what="what the dead one left to be cleared away")


def test_redis_has_the_accounts_that_the_command_line_prints(stack: Stack) -> None:
    made = stack.compose("exec", "-T", "redis", "cat", "/run/cyxwiz/users.acl").splitlines()
    asked = ((Role.NODE, "node"), (Role.PRODUCER, "producer"), (Role.MONITOR, "monitor"))
    assert made == [
        "user default off",
        "user health on nopass resetkeys resetchannels -@all +ping",
        *(
            acl_line(role, user, stack.env[f"CYXWIZ_{user.upper()}_PASSWORD"], every_node=True)
            for role, user in asked
        ),
    ]
    for _, role in asked:
        client = redis.Redis.from_url(stack.redis(role), decode_responses=True)
        assert client.ping()
        assert client.hget("cyxwiz:job:nobody", "state") is None
        forbidden: list[Any] = [
            lambda client=client: client.set("other:key", "x"),
            lambda client=client: client.config_get("*"),
            lambda client=client: client.flushall(),
            lambda client=client: client.keys(),
            lambda client=client: client.acl_list(),
            lambda client=client: client.publish("other", "x"),
        ]
        if role != "node":
            forbidden.append(lambda client=client: client.rpop("cyxwiz:work.x"))
        for ask in forbidden:
            with pytest.raises(redis.exceptions.NoPermissionError):
                ask()
        client.close()
    url = f"redis://127.0.0.1:{stack.env['CYXWIZ_REDIS_PORT']}/0"
    with pytest.raises(redis.exceptions.AuthenticationError):
        redis.Redis.from_url(url).ping()


def test_a_wrong_password_is_named_without_being_shown(stack: Stack, cli: Cli) -> None:
    url = stack.redis("producer").replace("producer-password", "wrong-password")
    done = cli("nodes", "--redis", url)
    assert done.code == 4
    assert "invalid username-password pair" in done.err
    assert "wrong-password" not in done.err


def test_more_nodes_come_with_scale(stack: Stack, cli: Cli) -> None:
    stack.up("--scale", "node=3", "--no-recreate")
    wait_until(
        lambda: cli("top", "--json").json["capacity"]["nodes"] == 3, timeout=60, what="three nodes"
    )


def test_a_changed_password_is_taken_up(stack: Stack) -> None:
    changed = replace(stack, env={**stack.env, "CYXWIZ_PRODUCER_PASSWORD": "another-password-12"})
    changed.up("accounts", "redis")
    assert redis.Redis.from_url(changed.redis("producer")).ping()
    with pytest.raises(redis.exceptions.AuthenticationError):
        redis.Redis.from_url(stack.redis("producer")).ping()
