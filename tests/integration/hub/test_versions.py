"""What another version wrote into Redis is read: what an earlier one did, as it was recorded, and
what a later one may do, which is to add.

`wire_1.json` is all that a producer and a node of the first versions left: a chain whose first job
is queued, and a job that ran when its node was lost. A test with a whole node of another version is
in `tests.e2e.test_two_versions`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import redis

from tasks.following import follow
from tasks.keys import Keys
from tasks.messages import VERSION_HEADER
from tasks.state import JobState
from tests.support.cluster import Cluster
from tests.support.live_node import LiveNode
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

Wire = dict[str, list[Any]]

RECORDED: Final = Path(__file__).with_name("wire_1.json")
LOST, FIRST, SECOND = "was-running", "first", "second"
KEYS: Final = Keys(prefix="cyxwiz:")


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as made:
        yield made


@pytest.fixture
def wire() -> Wire:
    found: Wire = json.loads(RECORDED.read_text())
    return found


def write(client: redis.Redis, wire: Wire) -> None:
    for name, (kind, content) in wire.items():
        match kind:
            case "hash":
                client.hset(name, mapping=content)
            case "list":
                client.rpush(name, *content)
            case "set":
                client.sadd(name, *content)
            case "zset":
                client.zadd(name, dict(content))
            case "string":
                client.set(name, content)
            case "stream":
                for number, fields in enumerate(content, 1):
                    client.xadd(name, fields, id=f"{json.loads(fields['e'])['seq']}-{number}")


def goes_on(server: RedisServer, directory: Path) -> None:
    """A node of this version ends every job that there is, and each is told of whole."""
    client = server.client()
    node = LiveNode(directory=directory, redis_url=server.url, lease_ttl=1.0)
    try:
        cluster = Cluster.of(node.start())

        def over(job: str) -> bool:
            # the chain's second job has no record before its first is over
            return client.hget(KEYS.job(job), "state") in {"succeeded", "failed", "rejected"}

        for job in (FIRST, SECOND, LOST):
            wait_until(lambda job=job: over(job), timeout=60, what=f"{job} to be over")
            record = cluster.app.records.get(job)
            assert record.state is JobState.SUCCEEDED, (record, node.said)
            wait_until(
                lambda job=job: cluster.app.backend.get_state(job) == "SUCCESS",
                what="Celery's view",
            )
            told = list(follow(job, settings=cluster.settings, timeout=30))
            assert [one.seq for one in told] == list(range(1, len(told) + 1))
            assert told[-1].type == "succeeded"
        assert cluster.app.records.get(LOST).attempt == 2
        assert client.llen(KEYS.put_aside) == 0
        cluster.close()
    finally:
        node.close()
        client.close()


def test_what_an_earlier_version_left_is_gone_on_with(
    server: RedisServer, wire: Wire, tmp_path: Path
) -> None:
    client = server.client()
    write(client, wire)
    client.close()
    goes_on(server, tmp_path)


def test_what_a_later_version_adds_is_left_alone(
    server: RedisServer, wire: Wire, tmp_path: Path
) -> None:
    """A header, a property and an embedded field of a message; fields of records; events of an
    unknown type, and with fields that are new."""
    for name, (kind, content) in wire.items():
        if name.startswith(KEYS.job("")):
            content["later"] = "1"
            content["message"] = added(content["message"])
        elif kind == "list":
            content[:] = [added(text) for text in content]
        elif kind == "stream" and content:
            events = [json.loads(fields["e"]) for fields in content]
            last = max(one["seq"] for one in events)
            events = [{**one, "later": {"a": [1]}} for one in events]
            events.append({**events[-1], "type": "later", "seq": last + 1})
            content[:] = [{"e": json.dumps(one), "later": "1"} for one in events]
            wire[KEYS.job(name.rpartition(":")[2])][1]["seq"] = str(last + 1)
    client = server.client()
    write(client, wire)
    client.close()
    goes_on(server, tmp_path)


def added(text: str) -> str:
    """The message with more in it."""
    message = json.loads(text)
    assert message["headers"][VERSION_HEADER] == 1
    message["headers"]["cyxwiz_later"] = {"a": 1}
    message["properties"]["later"] = "1"
    return json.dumps(message)


def test_a_message_of_a_version_that_means_something_else_is_put_aside(
    server: RedisServer, wire: Wire, tmp_path: Path
) -> None:
    """It is not lost: whoever upgrades the node first, as the manual says, has it run."""
    [(name, (_, [text]))] = [item for item in wire.items() if item[1][0] == "list"]
    message = json.loads(text)
    message["headers"][VERSION_HEADER] = 2
    client = server.client()
    node = LiveNode(directory=tmp_path, redis_url=server.url)
    try:
        node.start()
        client.lpush(name, json.dumps(message))
        wait_until(lambda: client.llen(KEYS.put_aside) == 1, timeout=30, what="it put aside")
        aside = json.loads(client.lindex(KEYS.put_aside, 0))  # type: ignore[arg-type]  # no client of asyncio's
        assert "version 2 of the message; this node reads 1" in aside["reason"]
    finally:
        node.close()
        client.close()
