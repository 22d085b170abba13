"""Where Redis is and what the keys are called: read from the environment once, here.

==========================  ==============================================================
``CYXWIZ_REDIS_URL``        broker, records and events (default ``redis://127.0.0.1:6379/0``);
                            ``redis://``, ``rediss://``, ``unix:///path/to.sock``
                            (``redis+socket://`` is the same);
                            ``sentinel://host:26379,…/0?name=NAME``
``CYXWIZ_PREFIX``           what every key begins with (default ``cyxwiz:``)
``CYXWIZ_LEASE_TTL``        seconds that a claim holds without renewal (default 60)
``CYXWIZ_RESULT_TTL``       seconds that an ended job's keys stay (default 30 days)
==========================  ==============================================================
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from tasks.errors import ConfigError, RedisUnavailable
from tasks.keys import DEFAULT_PREFIX, LEASE_TTL_MS, TERMINAL_TTL_S, Keys
from tasks.sentinel import SCHEME as SENTINEL
from tasks.sentinel import SentinelUrl

_SOCKET_SCHEMES: Final = ("unix", "redis+socket", "socket")
_SCHEMES: Final = ("redis", "rediss", SENTINEL, *_SOCKET_SCHEMES)
_PREFIX: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
_CONNECT_S: Final = 2.5
"""So that a Redis that does not answer is an error within 3 s."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How to reach the hub."""

    redis_url: str = "redis://127.0.0.1:6379/0"
    prefix: str = DEFAULT_PREFIX
    lease_ttl_ms: int = LEASE_TTL_MS
    result_ttl_s: int = TERMINAL_TTL_S

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Settings:
        """Read the environment. Raises ConfigError naming the variable that is wrong."""
        env = os.environ if env is None else env
        return cls(
            redis_url=_url(env.get("CYXWIZ_REDIS_URL") or cls.redis_url_default()),
            prefix=_prefix(env.get("CYXWIZ_PREFIX") or DEFAULT_PREFIX),
            lease_ttl_ms=round(_seconds(env, "CYXWIZ_LEASE_TTL", LEASE_TTL_MS / 1000, 0.5) * 1000),
            result_ttl_s=round(_seconds(env, "CYXWIZ_RESULT_TTL", TERMINAL_TTL_S, 1)),
        )

    @staticmethod
    def redis_url_default() -> str:
        """The URL that is used where none is configured."""
        return "redis://127.0.0.1:6379/0"

    @property
    def keys(self) -> Keys:
        """The key names under this prefix."""
        return Keys(prefix=self.prefix)

    @property
    def on_socket(self) -> bool:
        """Whether Redis is reached through a Unix socket."""
        return urlsplit(self.redis_url).scheme in _SOCKET_SCHEMES

    @property
    def sentinel(self) -> SentinelUrl | None:
        """Where the Sentinels are that name the primary; None for a Redis of a fixed address."""
        if urlsplit(self.redis_url).scheme != SENTINEL:
            return None
        return SentinelUrl.parse(self.redis_url)

    @property
    def celery_url(self) -> str:
        """The same Redis as kombu and Celery spell it."""
        if (sentinel := self.sentinel) is not None:
            return sentinel.celery_url
        if self.on_socket:
            return _with_scheme(self.redis_url, "redis+socket")
        return _verified(self.redis_url)

    @property
    def backend_url(self) -> str:
        """The same Redis as Celery's setting for the project's result backend."""
        if (sentinel := self.sentinel) is not None:
            return f"tasks.results:SentinelJobBackend+{sentinel.celery_url}"
        url = _with_scheme(self.redis_url, "socket") if self.on_socket else self.celery_url
        return f"tasks.results:JobBackend+{url}"

    def connect(self, *, timeout: float | None = 5.0, decode: bool = True) -> redis.Redis:
        """A client with no retries of its own: a caller that wants them says so itself.

        ``timeout``: seconds for connecting and for each answer; None waits for answers for ever.
        Nothing is sent yet; see `check` for an error that names the URL.
        """
        options = {
            "decode_responses": decode,
            "retry": Retry(NoBackoff(), 0),
            **self._options(timeout),
        }
        if (sentinel := self.sentinel) is not None:
            return sentinel.client(**options)
        client: redis.Redis = redis.Redis.from_url(self._client_url, **options)
        return client

    def connect_async(self, *, timeout: float | None = 5.0) -> redis.asyncio.Redis:
        """As `connect`, for asyncio."""
        options = {
            "decode_responses": True,
            "retry": AsyncRetry(NoBackoff(), 0),
            **self._options(timeout),
        }
        if (sentinel := self.sentinel) is not None:
            return sentinel.client_async(**options)
        client: redis.asyncio.Redis = redis.asyncio.Redis.from_url(self._client_url, **options)
        return client

    @property
    def _client_url(self) -> str:
        return _with_scheme(self.redis_url, "unix") if self.on_socket else self.redis_url

    def _options(self, timeout: float | None) -> dict[str, Any]:
        common: dict[str, Any] = {
            "socket_timeout": timeout,
            "socket_connect_timeout": _CONNECT_S,
            "encoding_errors": "replace",  # anybody may publish anything on a channel
        }
        return common if self.on_socket else {**common, "socket_keepalive": True}

    def check(self) -> None:
        """Say whether Redis answers. Raises RedisUnavailable within 3 s, naming the URL."""
        client = self.connect(timeout=_CONNECT_S)
        try:
            client.ping()
        except redis.RedisError as error:
            raise unavailable(self.redis_url, error) from error
        finally:
            client.close()


def unavailable(url: str, error: Exception) -> RedisUnavailable:
    """The error for a Redis that cannot be reached."""
    return RedisUnavailable(
        f"cannot use Redis at {mask(url)}: {str(error).rstrip('.')}. "
        "Start one there, or set CYXWIZ_REDIS_URL to where it is."
    )


def mask(url: str) -> str:
    """``url`` with its password replaced by ``***``, wherever it stands."""
    url = re.sub(r"([?&](?:sentinel_)?password=)[^&#]*", r"\1***", url)
    start, slashes, rest = url.partition("://")
    login = rest.partition("?")[0].rpartition("@")[0]  # a password may have a slash in it
    if ":" not in login:
        return url
    return f"{start}{slashes}{login.partition(':')[0]}:***@{rest[len(login) + 1 :]}"


def _with_scheme(url: str, scheme: str) -> str:
    """Not by urlunsplit, which drops the slashes before an empty host: unix:/path is refused."""
    return f"{scheme}:{url.partition(':')[2]}"


def _verified(url: str) -> str:
    """A ``rediss://`` URL says that the server must prove itself: for redis-py that goes without
    saying, and Celery refuses one that does not."""
    parts = urlsplit(url)
    if parts.scheme != "rediss" or "ssl_cert_reqs=" in parts.query:
        return url
    return f"{url}{'&' if parts.query else '?'}ssl_cert_reqs=required"


def _url(url: str) -> str:
    if urlsplit(url).scheme not in _SCHEMES or "://" not in url:
        raise ConfigError(
            f"CYXWIZ_REDIS_URL={mask(url)!r}: a URL such as redis://host:6379/0, "
            "rediss://host:6379/0, unix:///path/to.sock or "
            "sentinel://host:26379/0?name=NAME is needed"
        )
    if urlsplit(url).scheme == SENTINEL:
        SentinelUrl.parse(url)
    return url


def _prefix(prefix: str) -> str:
    if not _PREFIX.fullmatch(prefix):
        raise ConfigError(
            f"CYXWIZ_PREFIX={prefix!r}: 1 to 64 of A-Z, a-z, 0-9 and '._:-', beginning with a "
            "letter or digit, are needed, such as cyxwiz:"
        )
    return prefix


def _seconds(env: Mapping[str, str], name: str, default: float, least: float) -> float:
    text = env.get(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not value >= least or value == float("inf"):
        raise ConfigError(f"{name}={text!r}: a number of seconds, at least {least:g}, is needed")
    return value
