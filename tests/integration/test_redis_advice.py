"""A node says at its start what its Redis, set as it is, can lose."""

from __future__ import annotations

import pytest
import redis

from worker.node.redis_advice import advice

pytestmark = pytest.mark.integration


@pytest.fixture
def client(redis_client: redis.Redis) -> redis.Redis:
    return redis_client


def told(client: redis.Redis, **settings: str) -> list[str]:
    before = {name.replace("_", "-"): value for name, value in settings.items()}
    kept = {name: client.config_get(name)[name] for name in before}
    try:
        for name, value in before.items():
            client.config_set(name, value)
        return advice(client)
    finally:
        for name, value in kept.items():
            client.config_set(name, value)


def test_one_that_loses_nothing_is_not_mentioned(client: redis.Redis) -> None:
    assert advice(client) == []


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"appendonly": "no", "save": ""}, "nothing outlives a restart"),
        ({"appendonly": "no", "save": "60 1"}, "since its last snapshot"),
        ({"appendfsync": "no"}, "loses power"),
        ({"maxmemory": "100mb", "maxmemory_policy": "allkeys-lru"}, "deletes records"),
    ],
    ids=str,
)
def test_what_can_be_lost_is_said(client: redis.Redis, settings: dict[str, str], says: str) -> None:
    (text,) = told(client, **settings)
    assert says in text
    assert "Set " in text


def test_one_that_shows_nothing(client: redis.Redis) -> None:
    client.execute_command("ACL", "SETUSER", "shy", "on", ">pw", "~*", "+@all", "-config")
    path = client.connection_pool.connection_kwargs["path"]
    try:
        with redis.Redis(unix_socket_path=path, username="shy", password="pw") as shy:
            (text,) = advice(shy)
    finally:
        client.execute_command("ACL", "DELUSER", "shy")
    assert "does not show its settings" in text
