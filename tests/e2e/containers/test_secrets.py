"""Secrets on a whole node: signed jobs get what their key's scope has, and nothing tells of it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from tasks.errors import JobRejected
from tasks.job import JobConfig
from tasks.state import JobState
from tasks.trust import SigningKey, sign
from tests.support import engine
from tests.support.contained import Contained
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until
from worker.keeper import lock
from worker.sections import TrustSection

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

TOKEN = "hf_AbCdEf0123456789"
OTHER = "never-for-alice-123"
PRINTS = """
import json, os, sys, time
place = os.environ["CYXWIZ_SECRETS_DIR"]
token = open(os.path.join(place, "hf-token")).read()
print("names", sorted(os.listdir(place)), flush=True)
for piece in ("login with ", token[:5], token[5:], " failed\\n"):
    os.write(1, piece.encode()); time.sleep(0.05)
print(token, file=sys.stderr, flush=True)
print(json.dumps({"type": "progress", "epoch": 1, "total_epochs": 2, "loss": 0.5, token: 1}))
print(json.dumps({"type": "complete", "success": MADE, "error": "because of " + token,
                  "metrics": {token: 3}}), flush=True)
sys.exit(0 if MADE else 3)
"""
WAITS = """
import os, pathlib, time
print("up", flush=True)
while not pathlib.Path("/job/checkpoints/go").exists(): time.sleep(0.05)
print("still", open(os.path.join(os.environ["CYXWIZ_SECRETS_DIR"], "hf-token")).read(), flush=True)
"""
ALICE, BOB = SigningKey.generate(), SigningKey.generate()


@pytest.fixture(scope="module")
def shared_node(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Contained]:
    """It knows alice, who may have ``hf-*`` and run natively, and bob, who may have nothing."""
    place = tmp_path_factory.mktemp("secrets")
    keys = []
    for name, key, scope in (
        ("alice", ALICE, {"native": True, "secrets": ["hf-*"]}),
        ("bob", BOB, {}),
    ):
        path = place / f"{name}.pub"
        path.write_text(
            yaml.safe_dump({"name": name, "public_key": str(key.public), "scope": scope})
        )
        path.chmod(0o644)
        keys.append(str(path))
    secrets = place / "secrets.yaml"
    secrets.write_text(yaml.safe_dump({"hf-token": TOKEN, "other": OTHER}))
    secrets.chmod(0o600)
    with RedisServer() as server:
        made = Contained.start(
            place / "node",
            server.url,
            engine.shared(),
            extra={"trust": {"keys": keys, "secrets": str(secrets)}},
        )
        try:
            yield made
        finally:
            made.close()
            root = TrustSection().secrets_root(made.node.paths.state_dir)
            if root.exists():
                root.rmdir()


@pytest.fixture
def node(shared_node: Contained) -> Iterator[Contained]:
    """The module's node; afterwards it has no secret of any job."""
    yield shared_node
    wait_until(lambda: not in_memory(shared_node), timeout=60, what="no secret is left")


def in_memory(node: Contained) -> list[Path]:
    """The directories of secrets that the node has now."""
    root = TrustSection().secrets_root(node.node.paths.state_dir)
    return list(root.iterdir()) if root.exists() else []


def command(script: str, **more: Any) -> dict[str, Any]:
    return {"command": ["python3", "-c", script], "secrets": ["hf-token"], **more}


def everything(node: Contained) -> str:
    """All that is in Redis, and in each file of the node."""
    client: redis.Redis = redis.Redis.from_url(node.cluster.settings.redis_url)
    found = [repr(client.dump(key)) + key.decode() for key in client.scan_iter()]
    for key in client.scan_iter():
        match client.type(key):
            case b"hash":
                found.append(repr(client.hgetall(key)))
            case b"stream":
                found.append(repr(client.xrange(key)))
            case b"list":
                found.append(repr(client.lrange(key, 0, -1)))
            case b"string":
                found.append(repr(client.get(key)))
    client.close()
    for path in node.node.directory.rglob("*"):
        if path.is_file():
            found.append(path.read_bytes().decode(errors="replace"))
    return "\n".join(found)


@pytest.mark.parametrize(("sandbox", "made"), [("required", False), ("none", True)])
def test_a_signed_job_has_its_secret_and_nothing_tells_of_it(
    node: Contained, sandbox: str, made: bool
) -> None:
    script = PRINTS.replace("MADE", str(made))
    job = node.cluster.submit(
        sign(command(script, sandbox=sandbox, max_attempts=1), ALICE).to_wire()
    )
    record = node.cluster.wait_state(job)
    assert record.state is (JobState.SUCCEEDED if made else JobState.FAILED)
    logged = node.cluster.logged(job)
    assert "names ['hf-token']" in logged
    assert "login with *** failed" in logged
    assert "***" in logged
    [progress] = node.cluster.progress(job)
    assert dict(progress.metrics) == {"***": 1}
    node.wait_clean()
    told = everything(node)
    assert "login with ***" in told
    assert TOKEN not in told
    assert OTHER not in told
    text = str(job.result) + repr(record)
    assert TOKEN not in text


def test_the_engine_and_the_processes_tell_nothing(node: Contained) -> None:
    job = node.cluster.submit(sign(command(WAITS), ALICE).to_wire())
    seen = node.container(job)
    assert TOKEN not in json.dumps(seen)
    assert "CYXWIZ_SECRETS_DIR=/job/secrets" in seen["Config"]["Env"]
    for entry in Path("/proc").iterdir():
        for name in ("environ", "cmdline"):
            try:
                assert TOKEN.encode() not in (entry / name).read_bytes(), entry
            except OSError:
                continue
    # whoever reads it after its first reader was killed masks it, too
    os.kill(node.node.pool_child(), signal.SIGKILL)
    node.cluster.wait_adopted(job)
    (node.cluster.checkpoints(job, signer=ALICE.public.key_id) / "go").touch()
    job.get(timeout=60)
    assert "still ***" in node.cluster.logged(job)


def test_whoever_may_not_have_it_is_told_so_before_anything_starts(node: Contained) -> None:
    def refused(job: JobConfig) -> str:
        sent = node.cluster.submit(job.to_wire())
        with pytest.raises(JobRejected) as caught:
            sent.get(timeout=60)
        assert not node.cluster.logged(sent)
        return str(caught.value)

    wanted = command("print('no')")
    not_hers = "secrets: other not in the key's scope"
    assert not_hers in refused(sign({**wanted, "secrets": ["other"]}, ALICE))
    assert "hf-token not in the key's scope" in refused(sign(wanted, BOB))
    assert "only a job that a key of the node has signed" in refused(JobConfig.parse(wanted))


def test_nothing_is_left_of_them_when_worker_and_keeper_are_killed(node: Contained) -> None:
    job = node.cluster.submit(sign(command(WAITS, max_attempts=1), ALICE).to_wire())
    node.container(job)
    (state,) = node.node.paths.attempts.iterdir()
    assert len(in_memory(node)) == 1
    wait_until(lambda: lock.read(state) is not None, what="its keeper has written itself down")
    keeper = lock.read(state)
    worker = node.node.worker()
    assert keeper is not None
    assert worker is not None
    os.kill(node.node.pool_child(), signal.SIGKILL)
    os.kill(worker, signal.SIGKILL)
    os.kill(keeper.pid, signal.SIGKILL)
    wait_until(lambda: not in_memory(node), timeout=60, what="no secret is left")
    assert node.cluster.wait_state(job, timeout=60).state is JobState.FAILED
