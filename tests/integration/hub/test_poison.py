"""Whatever anybody puts into Redis, a slot goes on serving, and says what it was not given."""

from __future__ import annotations

import base64
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import redis

from tasks.job import JobConfig
from tasks.keys import Keys
from tasks.needs import needs_of
from tasks.publishing import TRAIN, kombu_message
from tasks.routing import direct_queue, route
from tasks.state import FailureReason, JobState
from tests.support.cluster import Cluster, started
from tests.support.live_node import LiveNode
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

JOB = {"command": ["true"], "job_id": "poison"}
QUEUE = route(JobConfig.parse(JOB)).queue
DEEP = "[" * 100_000 + "]" * 100_000


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with RedisServer() as server:
        node = LiveNode(directory=tmp_path_factory.mktemp("node"), redis_url=server.url)
        with started(node) as cluster:
            client = server.client()
            yield cluster, client
            client.close()


@pytest.fixture
def cluster(shared: tuple[Cluster, redis.Redis]) -> Any:
    """The module's cluster; whatever a test does, the same worker runs a job afterwards."""
    cluster = shared[0]
    worker, child = cluster.node.worker(), cluster.node.pool_child()
    yield cluster
    assert cluster.shell("true").get(timeout=30)["attempt"] == 1
    assert (cluster.node.worker(), cluster.node.pool_child()) == (worker, child), cluster.node.said


@pytest.fixture
def client(shared: tuple[Cluster, redis.Redis]) -> redis.Redis:
    return shared[1]


@pytest.fixture
def keys(cluster: Cluster) -> Keys:
    return cluster.settings.keys


def message(job_id: str = "poison", *, args: Any = None, **headers: Any) -> dict[str, Any]:
    head = {"id": job_id, "task": TRAIN, **headers}
    body = ([{**JOB, "job_id": job_id}] if args is None else args, {}, {})
    found: dict[str, Any] = json.loads(kombu_message(head, {}, body, QUEUE, 6))
    return found


def recorded(cluster: Cluster, job_id: str, spec: str, queue: str, text: str) -> None:
    """As a producer records a job, whatever ``spec`` and its message, ``text``, say."""
    cluster.app.records.submit(
        job_id=job_id,
        spec=spec,
        queue=queue,
        priority_step=6,
        user_id="",
        max_attempts=3,
        expires_ms=0,
        message=text,
        needs=needs_of(QUEUE),
    )


def pickled() -> str:
    found = message()
    found["content-type"] = "application/x-python-serialize"
    found["body"] = base64.b64encode(pickle.dumps([[JOB], {}, {}])).decode()
    return json.dumps(found)


POISON: dict[str, Any] = {
    "is no JSON": b"\x80\x05\x95not json",
    "100000000 bytes": b"x" * 100_000_000,
    "the message is nested too deep": DEEP,
    "headers or properties": "{}",
    "content-type 'application/x-python-serialize'": pickled(),
    "task 'os.system'": json.dumps(message(task="os.system")),
    "header retries is of the type str": json.dumps(message(retries="many")),
    "header eta": json.dumps(message(eta="2030-01-01T00:00:00")),
    "header timelimit": json.dumps(message(timelimit=[0.1, None])),
    "version 7": json.dumps(message(cyxwiz_v=7)),
    "id '../../etc' can be no job's": json.dumps(message("../../etc")),
    "the body is nested too deep": json.dumps(
        {**message(), "body": base64.b64encode(DEEP.encode()).decode()}
    ),
}


def test_poisoned_messages_are_put_aside_with_their_reasons(
    cluster: Cluster, client: redis.Redis, keys: Keys
) -> None:
    for raw in POISON.values():
        client.lpush(keys.message_list(QUEUE, 6), raw)
    wait_until(lambda: client.llen(keys.put_aside) == len(POISON), timeout=40, what="all of them")
    found = [json.loads(text) for text in client.lrange(keys.put_aside, 0, -1)][::-1]
    for entry, (reason, raw) in zip(found, POISON.items(), strict=True):
        assert reason in entry["reason"]
        assert (entry["queue"], entry["bytes"]) == (QUEUE, len(raw))
        assert len(entry["head"]) <= 8_000
    assert 0 < client.ttl(keys.put_aside) <= 30 * 24 * 3600
    assert client.hlen(keys.unacked) == 0
    log = cluster.node.paths.slot_log("cpu0").read_text()
    assert log.count("message.put_aside") == len(POISON)
    assert client.keys("*celery-task-meta-poison*") == [], "no result for whatever id one names"


def test_what_kombu_cannot_restore_is_not_in_the_way_of_others(
    cluster: Cluster, client: redis.Redis, keys: Keys
) -> None:
    client.hset(keys.unacked, mapping={"bad": "no json", "odd": "[1,2,3]", "deep": DEEP})
    good = json.dumps([message("restored"), "", QUEUE])
    client.hset(keys.unacked, "good", good)
    client.zadd(keys.unacked_index, {"bad": 1, "odd": 2, "deep": 3, "good": 4})
    wait_until(
        lambda: client.hlen(keys.unacked) == client.zcard(keys.unacked_index) == 0,
        timeout=60,
        what="them to be dealt with",
    )
    record = wait_over(cluster, "restored")
    assert record.state is JobState.SUCCEEDED


def test_a_message_that_has_outlived_its_record_runs_nothing(
    cluster: Cluster, client: redis.Redis, keys: Keys, tmp_path: Path
) -> None:
    """Of a job that was cancelled, or has ended, in a queue that nobody has read for so long. One
    that is younger has lost its record with Redis's data, and is run."""
    now = client.time()[0]
    kept = cluster.app.records.terminal_ttl_s
    for job_id, at in (("outlived", now - kept - 60), ("wiped", now - kept + 600)):
        config = {"command": ["touch", str(tmp_path / job_id)], "job_id": job_id}
        text = json.dumps(message(job_id, args=[config], cyxwiz_v=1, cyxwiz_at=at))
        client.lpush(keys.message_list(QUEUE, 6), text)
    assert wait_over(cluster, "wiped").state is JobState.SUCCEEDED
    wait_until(lambda: not client.exists(keys.unacked), timeout=30, what="both to be dealt with")
    assert not client.exists(keys.job("outlived"))
    assert [one.name for one in tmp_path.iterdir()] == ["wiped"]


def wait_over(cluster: Cluster, job_id: str) -> Any:
    def over() -> bool:
        try:
            return cluster.app.records.get(job_id).state.terminal
        except LookupError:
            return False

    wait_until(over, timeout=30, what=f"{job_id} to be over")
    return cluster.app.records.get(job_id)


CHANNELS = ["/0.celery.pidbox", "/0.celeryev/worker.heartbeat"]


@pytest.mark.parametrize("text", ["{", DEEP, "[]", "{}", '{"body": 1}', json.dumps(message())])
def test_broadcasts_that_cannot_be_read_are_left_out(
    text: str, cluster: Cluster, client: redis.Redis, keys: Keys
) -> None:
    for channel in CHANNELS:
        client.publish(f"{keys.prefix}{channel}", text)
        client.publish(channel, text)


def test_a_job_that_is_none_is_rejected_by_its_record(cluster: Cluster) -> None:
    """The message is of the right shape, and the configuration in it is not."""
    for number, args in enumerate([[5], ["x"], [{"command": 5}], [{"epochs": 10**30}], [[]]]):
        job_id = f"no-job-{number}"
        text = json.dumps(message(job_id, args=args))
        cluster.app.records.client.lpush(cluster.settings.keys.message_list(QUEUE, 6), text)
        wait_until(
            lambda job_id=job_id: cluster.app.backend.get_state(job_id) == "FAILURE",
            timeout=30,
            what=f"{args} to be refused",
        )


def test_a_job_with_a_field_of_a_later_version_is_rejected_and_never_run_without_it(
    cluster: Cluster, tmp_path: Path
) -> None:
    job_id, ran = "of-a-later-version", tmp_path / "ran"
    config = {"command": ["touch", str(ran)], "job_id": job_id, "later": ["--lr", "0.1"]}
    text = json.dumps(message(job_id, args=[config]))
    recorded(cluster, job_id, json.dumps(config), QUEUE, text)
    cluster.app.records.client.lpush(cluster.settings.keys.message_list(QUEUE, 6), text)
    wait_until(lambda: cluster.app.records.get(job_id).state.terminal, timeout=30, what="its end")
    record = cluster.app.records.get(job_id)
    assert (record.state, record.reason) == (JobState.REJECTED, FailureReason.USER_ERROR)
    assert "later: unknown field; " in record.message
    assert not ran.exists()


GARBAGE: dict[str, dict[str, Any]] = {
    "attempt": {"attempt": "x"},
    "fence": {"fence": ""},
    "expiry": {"state": "running", "exp": "never"},
    "attempts": {"state": "running", "max_attempts": "many"},
    "spec": {"spec": "{"},
    "queue": {"queue": "\x00"},
    "state": {"state": "unheard-of"},
}


def garbage(cluster: Cluster, client: redis.Redis, kind: str) -> str:
    """A recorded job of which somebody has made something else; its message is not sent yet."""
    keys, job_id = cluster.settings.keys, f"garbage-{kind.replace(' ', '-')}"
    for text in ("", json.dumps(message(job_id))):  # that of a job which stands is kept, not sent
        spec = JobConfig.parse({**JOB, "job_id": job_id}).canonical()
        recorded(cluster, job_id, spec, direct_queue(cluster.node.name), text)
    if kind == "a list":
        client.delete(keys.job(job_id))
        client.rpush(keys.job(job_id), "x")
    elif kind == "a full history":
        last = 2**64 - 1
        client.xadd(keys.history(job_id), {"e": "x"}, id=f"{last}-{last}")
    else:
        client.hset(keys.job(job_id), mapping=GARBAGE[kind])
    return job_id


def test_a_record_that_is_garbage_blocks_no_slot_and_no_reaper(
    cluster: Cluster, client: redis.Redis, keys: Keys
) -> None:
    made = [garbage(cluster, client, kind) for kind in (*GARBAGE, "a list", "a full history")]
    client.zadd(keys.leases, dict.fromkeys(made, 1))  # as if their leases had run out
    client.zadd(keys.delayed, dict.fromkeys(made, 1))
    client.zadd(keys.expiring, dict.fromkeys(made, 1))
    direct = keys.message_list(direct_queue(cluster.node.name), 6)
    for job_id in made:
        client.lpush(direct, json.dumps(message(job_id)))
    wait_until(lambda: client.llen(direct) == 0, timeout=30, what="all of them taken")

    def dealt_with() -> bool:
        return not any(client.zmscore(keys.leases, made)) and not client.zcard(keys.delayed)

    wait_until(dealt_with, timeout=30, what="the reaper")
    gone = {key.rpartition(":")[2] for key in client.keys(f"{keys.prefix}broken:job:*")}
    assert {"garbage-a-list", "garbage-attempt"} <= gone <= set(made)
