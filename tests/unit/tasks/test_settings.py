"""Where Redis is: read from the environment, checked, and never told with its password."""

from __future__ import annotations

import pytest

from tasks.errors import ConfigError
from tasks.settings import Settings, mask

pytestmark = pytest.mark.unit


def test_the_defaults() -> None:
    assert Settings.from_env({}) == Settings()
    assert Settings.from_env({"CYXWIZ_REDIS_URL": "", "CYXWIZ_PREFIX": ""}) == Settings()


def test_the_environment() -> None:
    env = {
        "CYXWIZ_REDIS_URL": "rediss://u:p@h:1/2",
        "CYXWIZ_PREFIX": "lab.a:",
        "CYXWIZ_LEASE_TTL": "1.5",
        "CYXWIZ_RESULT_TTL": "3600",
    }
    assert Settings.from_env(env) == Settings(
        redis_url="rediss://u:p@h:1/2", prefix="lab.a:", lease_ttl_ms=1500, result_ttl_s=3600
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CYXWIZ_REDIS_URL", "localhost:6379"),
        ("CYXWIZ_REDIS_URL", "http://localhost"),
        ("CYXWIZ_REDIS_URL", "redis:localhost"),
        ("CYXWIZ_REDIS_URL", "/run/redis.sock"),
        ("CYXWIZ_PREFIX", "{tag}:"),
        ("CYXWIZ_PREFIX", "a*"),
        ("CYXWIZ_PREFIX", ":"),
        ("CYXWIZ_PREFIX", "a b"),
        ("CYXWIZ_PREFIX", "x" * 65),
        ("CYXWIZ_LEASE_TTL", "soon"),
        ("CYXWIZ_LEASE_TTL", "0.1"),
        ("CYXWIZ_LEASE_TTL", "nan"),
        ("CYXWIZ_RESULT_TTL", "inf"),
    ],
)
def test_what_is_wrong_is_named_with_what_is_needed(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}=.* needed"):
        Settings.from_env({name: value})


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        ("redis://user@h/0", "redis://user@h/0"),
        ("redis://:secret@h/0", "redis://:***@h/0"),
        ("rediss://user:secret@h:1/0?x=1", "rediss://user:***@h:1/0?x=1"),
        ("redis://u:sec/r@et@h/0", "redis://u:***@h/0"),
        ("unix://:secret@/run/r.sock", "unix://:***@/run/r.sock"),
        ("unix:///run/r.sock?db=1&password=secret", "unix:///run/r.sock?db=1&password=***"),
        ("redis://h/0?password=secret&db=1", "redis://h/0?password=***&db=1"),
    ],
)
def test_a_password_is_masked(url: str, masked: str) -> None:
    assert mask(url) == masked


def test_a_wrong_url_is_told_without_its_password() -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.from_env({"CYXWIZ_REDIS_URL": "rdis://u:secret@h"})
    assert "secret" not in str(caught.value)
    assert "rdis://u:***@h" in str(caught.value)


@pytest.mark.parametrize("scheme", ["unix", "redis+socket", "socket"])
def test_a_socket_is_spelt_as_each_library_wants_it(scheme: str) -> None:
    settings = Settings(redis_url=f"{scheme}:///run/r.sock")
    assert settings.on_socket
    assert settings.celery_url == "redis+socket:///run/r.sock"
    assert settings.backend_url == "tasks.results:JobBackend+socket:///run/r.sock"
    pool = settings.connect().connection_pool
    assert pool.connection_kwargs["path"] == "/run/r.sock"
