"""What nodes say, signed, on real nodes; and whoever else may write to Redis, found out."""

from __future__ import annotations

import json
import os
import shlex
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from celery.result import AsyncResult

from tasks.control import cancel
from tasks.errors import Forged, JobFailed, JobRejected, NodeUntrusted, NotSigned
from tasks.events import Envelope, Progress
from tasks.following import follow
from tasks.job import JobConfig
from tasks.recorded import Claimed, Lease
from tasks.state import JobState
from tasks.trust import SigningKey
from tasks.vouching import End, Signer, check_end
from tests.support.cli import Cli
from tests.support.cluster import Cluster
from tests.support.proof import proven, root_of
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until
from worker.trust.acl import Role, acl_line

pytestmark = pytest.mark.e2e

Start = Callable[..., Cluster]
PASSWORD = "a-password-of-a-test"
LONG = {"lease_ttl": 60.0, "lease_grace": 30.0}
COUNTS = """
import json, os, sys, time
number = 0
while not os.path.exists(sys.argv[1]):
    number += 1
    print(json.dumps({"type": "progress", "epoch": number, "total_epochs": 10**6}), flush=True)
    print("line", number, flush=True)
    time.sleep(0.02)
"""


@pytest.fixture
def attacker(cluster: Cluster) -> Iterator[redis.Redis]:
    """Another node, with the account that `cyxwiz acl` gives it."""
    admin = cluster.app.records.client
    _, user, *rules = shlex.split(acl_line(Role.NODE, "node-b", PASSWORD, node="node-b"))
    admin.execute_command("ACL", "SETUSER", user, "reset", *rules)
    socket = cluster.node.redis_url.removeprefix("unix://")
    client = redis.Redis(
        unix_socket_path=socket, username=user, password=PASSWORD, decode_responses=True
    )
    yield client
    client.close()
    admin.execute_command("ACL", "DELUSER", user)


def test_every_end_that_a_node_decides_is_signed(cluster: Cluster, data: Path) -> None:
    root = root_of(cluster)
    good = cluster.command('print(\'{"type": "progress", "epoch": 1, "x": 1e-9}\')')
    bad = cluster.shell("exit 3")
    stalled = cluster.shell("exec sleep 60", stall_timeout_seconds=0.5, max_attempts=1)
    refused = cluster.shell("true", dataset_uri=f"file://{data}/../x")
    running = cluster.shell("exec sleep 60")
    cluster.wait_state(running, JobState.RUNNING)
    cancel(running.id, app=cluster.app)
    assert good.get(timeout=60, trust=root)["node"] == "node-a"
    for job, kind, reason in (
        (bad, JobFailed, "user_error"),
        (stalled, JobFailed, "stalled"),
        (refused, JobRejected, "dataset_unavailable"),
    ):
        with pytest.raises(kind) as caught:
            job.get(timeout=60, trust=root)
        assert caught.value.reason in (reason, "user_error")
    wait_until(running.ready, timeout=30, what="it is cancelled")
    assert running.prove(root) == "node-a"
    for job in (good, bad, stalled, refused, running):
        proven(cluster, job)
        record = cluster.record(job)
        assert check_end(record, End.of(record), root) == "node-a"


def test_an_end_that_no_node_says_is_not_taken_for_one(cluster: Cluster) -> None:
    job = cluster.shell("true", required_device="cuda", gpus=1)
    cancel(job.id, app=cluster.app)
    wait_until(job.ready, timeout=30, what="it is cancelled")
    with pytest.raises(NotSigned, match="it was cancelled in the queue"):
        job.prove(root_of(cluster))
    with pytest.raises(NotSigned, match="cancelled or expired in the queue"):
        list(follow(job.id, settings=cluster.settings, timeout=30, trust=root_of(cluster)))
    assert [one.type for one in cluster.events(job)] == ["queued", "cancelled"]


def test_another_node_that_writes_into_redis_is_found_out(
    cluster: Cluster, attacker: redis.Redis
) -> None:
    """With the rights that its account has, which reach every job's record, events and result."""
    root, keys = root_of(cluster), cluster.settings.keys
    job, other = cluster.shell("echo one"), cluster.shell("echo two")
    result = job.get(timeout=60, trust=root)
    other.get(timeout=60)
    mine = Signer(SigningKey.generate(), "node-a", "cpu0")
    stored = f"{keys.prefix}celery-task-meta-{job.id}"
    record, celery = keys.job(job.id), str(attacker.get(stored))
    proof = str(attacker.hget(record, "proof"))

    def again() -> AsyncResult:
        """As another producer: Celery may keep what it hears of twice for whoever asks next."""
        return Cluster.of(cluster.node).app.AsyncResult(job.id)

    # Celery's result
    lie = {**json.loads(celery), "result": {**result, "loss": 0.0}}
    attacker.set(stored, json.dumps(lie))
    assert again().get(timeout=10)["loss"] == 0.0
    with pytest.raises(Forged, match=r"\(succeeded\) is not what node node-a has signed"):
        again().get(timeout=10, trust=root)
    failed = {"exc_type": "JobFailed", "exc_module": "tasks.errors", "exc_message": ["timeout", ""]}
    attacker.set(stored, json.dumps({**lie, "status": "FAILURE", "result": failed}))
    with pytest.raises(Forged, match=r"\(failed\) is not what"):
        again().get(timeout=10, trust=root)
    attacker.set(stored, celery)
    assert again().get(timeout=10, trust=root) == result

    # the proof: none, another job's, one of its own
    attacker.hdel(record, "proof")
    with pytest.raises(NotSigned):
        again().get(timeout=10, trust=root)
    attacker.hset(record, "proof", str(attacker.hget(keys.job(other.id), "proof")))
    with pytest.raises(Forged):
        again().get(timeout=10, trust=root)
    for rubbish in ("[", "[]", '{"v":1}', json.dumps({**json.loads(proof), "key": "x"})):
        attacker.hset(record, "proof", rubbish)
        with pytest.raises((Forged, NotSigned, NodeUntrusted)):
            again().get(timeout=10, trust=root)
    claimed = cluster.app.records.get(job.id)
    claim = Claimed(
        lease=Lease(job_id=job.id, owner="", fence=claimed.fence),
        attempt=1,
        spec=str(attacker.hget(record, "spec")),
        last_reason="",
    )
    attacker.hset(record, "proof", mine.proof(claim, End.of(claimed)))
    with pytest.raises(NodeUntrusted, match="has another key"):
        again().get(timeout=10, trust=root)
    attacker.hset(record, "proof", proof)

    # who had the job, and what it was
    for field, value in (("node", "node-b"), ("fence", "7"), ("spec", '{"command":["false"]}')):
        before = str(attacker.hget(record, field))
        attacker.hset(record, field, value)
        with pytest.raises(Forged):
            again().get(timeout=10, trust=root)
        attacker.hset(record, field, before)
    assert again().get(timeout=10, trust=root) == result

    # its events
    proven(cluster, job)
    row, fields = attacker.xrevrange(keys.history(job.id), count=1)[0]
    attacker.xdel(keys.history(job.id), row)
    event = {**json.loads(fields["e"]), "result": {"loss": 0.0}}
    # a stream's ids only rise, so the forged one takes a part that is free
    attacker.xadd(keys.history(job.id), {"e": json.dumps(event)}, id=row.replace("-0", "-1"))
    assert cluster.events(job)[-1].event.result == {"loss": 0.0}  # type: ignore[union-attr]
    with pytest.raises(Forged, match="is not what node node-a has signed"):
        proven(cluster, job)


def test_a_configuration_that_was_changed_before_the_node_had_it(
    cluster: Cluster, attacker: redis.Redis
) -> None:
    """The node signs what it ran; the producer knows what it submitted."""
    job = JobConfig.parse({"command": ["echo", "mine"], "job_id": "changed-1"})
    node = cluster.node
    assert node.process is not None
    worker = [node.worker("cpu0"), node.worker("cpu1")]
    children = [node.pool_child("cpu0"), node.pool_child("cpu1")]
    for pid in (*worker, *children):
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
    try:
        sent = cluster.submit(job.to_wire())
        sent.submitted = job  # as `train.delay` leaves it
        record = cluster.settings.keys.job("changed-1")
        spec = json.loads(str(attacker.hget(record, "spec")))
        attacker.hset(record, "spec", json.dumps({**spec, "command": ["echo", "theirs"]}))
    finally:
        for pid in (*worker, *children):
            os.kill(int(pid or 0), signal.SIGCONT)
    with pytest.raises(Forged, match="has run another configuration than was submitted"):
        sent.get(timeout=60, trust=root_of(cluster))
    assert cluster.logged(sent) == ["theirs"]


class Heard(threading.Thread):
    """A follower that wants proof, from the first event on."""

    def __init__(self, cluster: Cluster, job: AsyncResult) -> None:
        super().__init__(daemon=True)
        self.events: list[Envelope] = []
        self.error: Exception | None = None
        self._follow = follow(
            job.id, settings=cluster.settings, timeout=120, trust=root_of(cluster)
        )
        self.start()

    def run(self) -> None:
        try:
            for one in self._follow:
                self.events.append(one)
        except Exception as error:
            self.error = error

    @property
    def epochs(self) -> list[int]:
        found = [one.event for one in self.events]
        return [event.epoch for event in found if isinstance(event, Progress)]

    def wait(self, more: int = 5) -> None:
        want = len(self.epochs) + more
        wait_until(
            lambda: self.error is not None or len(self.epochs) >= want, timeout=60, what="news"
        )
        assert self.error is None

    def over(self) -> list[Envelope]:
        self.join(60)
        assert not self.is_alive()
        assert self.error is None, self.error
        return self.events


def test_a_successor_and_a_new_record_go_on_with_what_was_signed(
    start_cluster: Start, tmp_path: Path
) -> None:
    """Killed supervisors, then a Redis that loses all it knows: nothing is missing, nothing twice,
    and all of it is the node's word."""
    cluster = start_cluster(**LONG)
    go = tmp_path / "go"
    job = cluster.submit({"command": ["python3", "-c", COUNTS, str(go)]})
    heard = Heard(cluster, job)
    heard.wait()
    for _ in range(2):
        os.kill(cluster.node.pool_child(), signal.SIGKILL)
        cluster.wait_adopted(job)
        heard.wait()
    client = cluster.app.records.client
    client.flushall()
    wait_until(lambda: client.exists(cluster.settings.keys.job(job.id)), what="its record")
    heard.wait()
    go.touch()
    found = heard.over()
    assert found[-1].type == "succeeded"
    assert {one.signed_by for one in found if one.type not in ("queued", "retrying")} == {"node-a"}
    assert any(one.type == "resumed" for one in found)
    late = proven(cluster, job)
    assert late[-1] == found[-1]
    assert isinstance(job.get(timeout=30, trust=root_of(cluster)), dict)
    cluster.wait_clean()


def test_an_operator_enrols_a_node_and_a_producer_believes_it(
    start_cluster: Start, server: RedisServer, tmp_path: Path
) -> None:
    """By the command line, from the keys to the files that a job left."""
    cli = Cli(cwd=tmp_path, env={"CYXWIZ_REDIS_URL": server.url})
    for name in ("operator", "stranger"):
        assert cli("keys", "new", name).code == 0
    state = tmp_path / "node-a" / "state"
    config = tmp_path / "node.yaml"
    config.write_text(json.dumps({"node": {"name": "node-a", "state_dir": str(state)}}))
    (tmp_path / "node-a").mkdir()
    shown = cli("keys", "node", "--config", str(config), "--json").json
    assert (state / "node.key").stat().st_mode & 0o777 == 0o600
    assert (shown["node"], shown["enrolled_by"]) == ("node-a", None)
    made = cli("keys", "enrol", "node-a", shown["public_key"], "--key", "operator.key")
    assert made.code == 0, made
    (tmp_path / "node-a").rename(tmp_path / "made")  # the fixture makes it
    cluster_dir = tmp_path / "made"
    (cluster_dir / "state" / "node.cert").write_text(made.out)

    def trust(*lines: str) -> str:
        path = tmp_path / f"trust{len(list(tmp_path.glob('trust*')))}"
        path.write_text("\n".join(lines) + "\n")
        path.chmod(0o644)
        return str(path)

    def public(name: str) -> str:
        return str(SigningKey.load(tmp_path / f"{name}.key").public)

    ours = trust(f"operator {public('operator')}")
    theirs = trust(f"operator {public('stranger')}")
    without = trust(f"operator {public('operator')}", f"revoked {shown['key_id']}")
    node = start_cluster("node-a", extra={"node": {"state_dir": str(cluster_dir / "state")}})
    job = {"command": ["/bin/sh", "-c", "echo kept > $CYXWIZ_OUTPUT/file; echo said"]}
    (tmp_path / "job.json").write_text(json.dumps({**job, "job_id": "proven-1"}))
    done = cli("submit", "job.json", "--follow", "--trust", ours, "--json")
    assert done.code == 0, done
    assert [one.get("signed_by") for one in done.lines][1:] == ["node-a"] * (len(done.lines) - 1)
    assert cli("follow", "proven-1", "--trust", ours).code == 0
    told = cli("job", "proven-1", "--trust", ours)
    assert (told.code, "signed by" in told.out) == (0, True)
    for path in (theirs, without):
        for command in (("follow",), ("job",), ("get",)):
            refused = cli(*command, "proven-1", "--trust", path)
            assert refused.code == 12, refused
            assert "node node-a: " in refused.err
    assert not (tmp_path / "proven-1").exists()
    assert cli("get", "proven-1", "--trust", ours).code == 0
    assert (tmp_path / "proven-1" / "file").read_text() == "kept\n"
    assert cli("submit", "job.json", "--trust", ours).code == 2
    assert cli("follow", "proven-1", "--trust", "none").code == 3

    # another node's enrolment, or one of another key: the node does not start with it
    assert node.node.stop() == 0
    for wrong in (
        ("node-b", shown["public_key"]),
        ("node-a", public("stranger")),
    ):
        other = cli("keys", "enrol", *wrong, "--key", "operator.key")
        (cluster_dir / "state" / "node.cert").write_text(other.out)
        start = cli("node", "--config", str(node.node.write_config()))
        assert start.code == 3, start
        assert "trust.enrolment" in start.err


def test_a_node_that_signs_no_events_or_nothing_is_not_believed_more(start_cluster: Start) -> None:
    some = start_cluster(extra={"trust": {"sign_events": False}})
    job = some.shell("echo hello")
    job.get(timeout=60, trust=root_of(some))
    with pytest.raises(NotSigned, match="sign_events"):
        list(follow(job.id, settings=some.settings, timeout=30, trust=root_of(some)))
    assert some.logged(job) == ["hello"]
    root = root_of(some)
    some.node.stop()
    none = start_cluster("node-b", extra={"trust": {"sign_results": False}})
    job = none.shell("echo hello")
    assert job.get(timeout=60)["node"] == "node-b"
    with pytest.raises(NotSigned, match="sign_results"):
        job.prove(root)
    assert not none.node.paths.node_key.exists()
