"""Which Redis a command talks to."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.errors import ConfigError
from worker.cli.hub import OWN_REDIS, find_hub

pytestmark = pytest.mark.unit


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "server-node.yaml"
    path.write_text(
        "redis: {url: 'redis://in-file:1/0', prefix: 'p:'}\n"
        f"node: {{state_dir: {tmp_path / 'state'}}}\n"
        "timeouts: {lease_ttl: 7}\n"
    )
    return path


def test_the_option_comes_first_then_the_variable_then_the_file(config: Path) -> None:
    env = {"CYXWIZ_REDIS_URL": "redis://in-env:1/0"}
    first = find_hub("redis://option:1/0", config, env)
    assert (first.settings.redis_url, first.named_by) == ("redis://option:1/0", "--redis")
    second = find_hub(None, config, env)
    assert (second.settings.redis_url, second.named_by) == (
        "redis://in-env:1/0",
        "CYXWIZ_REDIS_URL",
    )
    third = find_hub(None, config, {})
    assert (third.settings.redis_url, third.named_by) == ("redis://in-file:1/0", str(config))


def test_prefix_and_lease_are_the_environments_else_the_files(config: Path) -> None:
    settings = find_hub(None, config, {}).settings
    assert (settings.prefix, settings.lease_ttl_ms) == ("p:", 7000)
    env = {"CYXWIZ_PREFIX": "q:", "CYXWIZ_LEASE_TTL": "9"}
    settings = find_hub(None, config, env).settings
    assert (settings.prefix, settings.lease_ttl_ms) == ("q:", 9000)


def test_the_redis_of_this_users_own_node_is_found(tmp_path: Path) -> None:
    env = {"XDG_STATE_HOME": str(tmp_path), "CYXWIZ_NODE__STATE_DIR": str(tmp_path / "cyxwiz")}
    assert find_hub(None, None, env).named_by == ""
    (tmp_path / "cyxwiz").mkdir()
    (tmp_path / "cyxwiz" / OWN_REDIS).write_text("redis+socket:///x/redis.sock\n")
    hub = find_hub(None, None, env)
    assert (hub.settings.redis_url, hub.named_by) == ("redis+socket:///x/redis.sock", "node")


@pytest.mark.parametrize(
    "url", ["nonsense", "http://a/", "redis://:secret@host:port/0", "redis://:se/cret@host"]
)
def test_what_is_no_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError) as error:
        find_hub(url, None, {})
    assert "--redis" in str(error.value)
    assert "right: redis://host:6379/0" in str(error.value)
    assert "sentinel://host:26379/0?name=NAME" in str(error.value)
    assert "secret" not in str(error.value)
    assert "se/cret" not in str(error.value)
