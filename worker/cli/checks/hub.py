"""Redis: the one that is named, or the one that a node would start."""

from __future__ import annotations

from typing import Final

import redis

from tasks.errors import ConfigError, RedisUnavailable
from tasks.settings import Settings, mask
from worker.cli.checks.base import Check, Situation, blocks, missing, ok
from worker.cli.hub import OWN_REDIS, configured
from worker.node.embedded_redis import find_server

_INSTALL: Final = (
    "install one (Debian: apt-get install redis-server), or pip install 'cyxwiz-worker[embedded]'"
)


def check_redis(situation: Situation) -> Check:
    """Whether a node here has a Redis."""
    name = "redis"
    try:
        hub = configured(
            situation.redis_url, situation.config, situation.config_path, situation.env
        )
    except ConfigError as error:
        return blocks(name, "wrong", why=str(error), todo="give the URL of a Redis")
    if hub is not None:
        return _reached(name, hub.settings, f"named by {hub.named_by}")
    try:
        own = (situation.config.node.state_dir / OWN_REDIS).read_text().strip()
    except OSError:
        own = ""
    if own:
        return _reached(name, Settings(redis_url=own), "this node's own")
    server = find_server()
    if server is None:
        return blocks(
            name,
            "none is configured, and no server is installed",
            why="jobs reach a node through Redis",
            todo=f"set CYXWIZ_REDIS_URL to a Redis, or {_INSTALL}",
        )
    return ok(name, f"none is configured: a node starts its own, {server}")


def check_server() -> Check:
    """The program that a node without a configured Redis would start."""
    server = find_server()
    if server is None:
        return missing(
            "redis-server",
            "not installed",
            why="a node with no Redis configured cannot start its own, nor can `cyxwiz demo`",
            todo=_INSTALL,
        )
    return ok("redis-server", server)


def _reached(name: str, settings: Settings, which: str) -> Check:
    where = f"{mask(settings.redis_url)} ({which})"
    client = settings.connect(timeout=2.5)
    try:
        settings.check()
        info = client.info("server")
        version = f"{info.get('redis_version', 'of unknown version')}"
        policy = _eviction(client)
    except (RedisUnavailable, redis.RedisError) as error:
        return blocks(
            name,
            where,
            why=f"does not answer: {error}",
            todo="start it, or name another one with --redis or CYXWIZ_REDIS_URL",
        )
    finally:
        client.close()
    if policy not in ("", "noeviction"):
        return missing(
            name,
            f"{where}, {version}",
            why=f"its maxmemory-policy is {policy}: once full it drops jobs",
            todo="CONFIG SET maxmemory-policy noeviction, and so in redis.conf",
        )
    return ok(name, f"{where}, {version}")


def _eviction(client: redis.Redis) -> str:
    """'' where the server does not let it be asked."""
    try:
        found = client.config_get("maxmemory-policy")
    except redis.ResponseError:
        return ""
    return str(found.get("maxmemory-policy", "")) if isinstance(found, dict) else ""
