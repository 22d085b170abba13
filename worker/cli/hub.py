"""Which Redis a command talks to, and the options that say so.

``--redis``, else ``CYXWIZ_REDIS_URL``, else ``redis.url`` of the node's configuration, else the
Redis that a node of this user has started for itself, else the default.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from tasks.errors import ConfigError

if TYPE_CHECKING:  # what ``--help`` of any command need not load
    import redis

    from tasks.settings import Settings
    from worker.config import NodeConfig

_F = TypeVar("_F", bound=Callable[..., Any])

OWN_REDIS: Final = "redis.url"
"""File in a node's state directory: the URL of the Redis that it has started for itself."""

_FORMS: Final = (
    "redis://host:6379/0, rediss://host:6379/0, unix:///path/to.sock or "
    "sentinel://host:26379/0?name=NAME"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Hub:
    """The Redis, and who named it."""

    settings: Settings
    named_by: str
    """'--redis', 'CYXWIZ_REDIS_URL', a file's path, 'node' or '' (the default)."""


def hub_options(command: _F) -> _F:
    """``--redis`` and ``--config``, as ``redis_url`` and ``config_path``."""
    command = click.option(
        "--redis",
        "redis_url",
        metavar="URL",
        help=f"The Redis: {_FORMS}. Else CYXWIZ_REDIS_URL, else the configuration's.",
    )(command)
    return config_option(command)


def config_option(command: _F) -> _F:
    """``--config``, as ``config_path``."""
    return click.option(
        "--config",
        "config_path",
        type=click.Path(path_type=Path, dir_okay=False),
        envvar="CYXWIZ_CONFIG",
        metavar="PATH",
        help="The node's configuration; else CYXWIZ_CONFIG, else /etc/cyxwiz/server-node.yaml.",
    )(command)


json_option = click.option("--json", "as_json", is_flag=True, help="JSON, for programs.")


def find_hub(
    redis_url: str | None, config_path: Path | None, env: Mapping[str, str] | None = None
) -> Hub:
    """The Redis for a producer's command. Raises ConfigError."""
    env = os.environ if env is None else env
    config = _config(config_path, env)
    hub = configured(redis_url, config, config_path, env)
    if hub is not None:
        return hub
    settings = settings_for(config, env)
    state_dir = config.node.state_dir if config is not None else _state_dir(env)
    try:
        own = (state_dir / OWN_REDIS).read_text().strip()
    except OSError:
        return Hub(settings=settings, named_by="")
    return Hub(settings=replace(settings, redis_url=own), named_by="node")


def reached(redis_url: str | None, config_path: Path | None) -> Settings:
    """The hub of `find_hub`, which has answered. Raises ConfigError, RedisUnavailable within 3 s.

    Asked first: what a command does then waits longer for its answers.
    """
    settings = find_hub(redis_url, config_path).settings
    settings.check()
    return settings


@contextmanager
def reaching(settings: Settings) -> Iterator[redis.Redis]:
    """A client; whatever it cannot reach is RedisUnavailable, naming the URL."""
    import redis

    from tasks.settings import unavailable

    client = settings.connect()
    try:
        yield client
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise unavailable(settings.redis_url, error) from error
    finally:
        client.close()


def configured(
    redis_url: str | None,
    config: NodeConfig | None,
    config_path: Path | None,
    env: Mapping[str, str],
) -> Hub | None:
    """The Redis that somebody has named; None where nobody has. Raises ConfigError."""
    from worker.config import DEFAULT_PATH

    in_file = config.redis.url if config is not None else None
    for url, named_by in (
        (redis_url, "--redis"),
        (env.get("CYXWIZ_REDIS_URL"), "CYXWIZ_REDIS_URL"),
        (in_file, str(config_path or DEFAULT_PATH)),
    ):
        if url:
            _check(url, named_by)
            settings = replace(settings_for(config, env), redis_url=url)
            return Hub(settings=settings, named_by=named_by)
    return None


def settings_for(config: NodeConfig | None, env: Mapping[str, str]) -> Settings:
    """Everything but the URL: the environment's, else the configuration's."""
    from tasks.settings import Settings

    settings = Settings.from_env({**env, "CYXWIZ_REDIS_URL": ""})
    if config is None:
        return settings
    if "CYXWIZ_PREFIX" not in env:
        settings = replace(settings, prefix=config.redis.prefix)
    if not env.get("CYXWIZ_LEASE_TTL"):
        settings = replace(settings, lease_ttl_ms=round(config.timeouts.lease_ttl * 1000))
    return settings


def _config(path: Path | None, env: Mapping[str, str]) -> NodeConfig | None:
    """The configuration; None if none is named and the default is not this user's to read."""
    from worker.config import DEFAULT_PATH, load

    if path is None and DEFAULT_PATH.exists() and not os.access(DEFAULT_PATH, os.R_OK):
        return None
    return load(path, env)


def _state_dir(env: Mapping[str, str]) -> Path:
    from worker.config import default_state_dir

    return default_state_dir(env)


def _check(url: str, named_by: str) -> None:
    from tasks.settings import Settings

    try:
        Settings(redis_url=url).connect().close()
    except ValueError:  # its text may quote the password
        raise ConfigError(
            f"{named_by}: {_masked(url)} is no URL of a Redis; right: {_FORMS}"
        ) from None


def _masked(url: str) -> str:
    from tasks.settings import mask

    try:
        masked = mask(url)
    except ValueError:
        masked = url
    # a password that hides the host (it has a '/') is not seen as one, and must not be shown
    return "what is given" if "@" in url and "***" not in masked else masked
