"""Redis behind Sentinel: ``sentinel://[user:password@]host[:26379][,host…]/[DB]?name=NAME``.

The Sentinels say which server is the primary now; every new connection asks them. Options in the
query: ``name`` (needed: what the Sentinels call the primary) and ``sentinel_password`` (theirs).
User and password before the hosts are Redis's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel

from tasks.errors import ConfigError

SCHEME: Final = "sentinel"
_PORT: Final = 26379
_FORM: Final = "sentinel://host:26379,host2:26379/0?name=NAME"


@dataclass(frozen=True, kw_only=True, slots=True)
class SentinelUrl:
    """What such a URL says."""

    hosts: tuple[tuple[str, int], ...]
    name: str
    db: int = 0
    username: str | None = None
    password: str | None = None
    sentinel_password: str | None = None

    @classmethod
    def parse(cls, url: str) -> SentinelUrl:
        """Raises ConfigError, without showing a password."""
        parts = urlsplit(url)
        login, at, places = parts.netloc.rpartition("@")
        user, _, password = login.partition(":")
        query = parse_qs(parts.query)
        try:
            hosts = tuple(_place(one) for one in places.split(",") if one)
            db = int(parts.path.strip("/") or 0)
            name = query.pop("name", [""])[0]
            sentinel_password = query.pop("sentinel_password", [None])[0]
        except ValueError:
            raise ConfigError(f"a Sentinel URL such as {_FORM} is needed") from None
        if query:
            raise ConfigError(f"a Sentinel URL takes name and sentinel_password, not {min(query)}")
        if not hosts or not name:
            missing = "name=NAME, what the Sentinels call the primary," if hosts else "a host"
            raise ConfigError(f"{missing} is missing: a URL such as {_FORM} is needed")
        return cls(
            hosts=hosts,
            name=name,
            db=db,
            username=(unquote(user) or None) if at else None,
            password=(unquote(password) or None) if at else None,
            sentinel_password=sentinel_password,
        )

    @property
    def celery_url(self) -> str:
        """As kombu and Celery spell it: one URL for each Sentinel."""
        login = ""
        if self.password is not None:
            from urllib.parse import quote

            login = f"{quote(self.username or '', safe='')}:{quote(self.password, safe='')}@"
        return ";".join(f"{SCHEME}://{login}{host}:{port}/{self.db}" for host, port in self.hosts)

    @property
    def transport_options(self) -> dict[str, Any]:
        """What kombu's transport and Celery's result backend need beside the URL."""
        found: dict[str, Any] = {"master_name": self.name}
        if self.sentinel_password is not None:
            found["sentinel_kwargs"] = {"password": self.sentinel_password}
        return found

    def client(self, **options: Any) -> redis.Redis:
        """A client of the primary, whichever that is at the time of each connection."""
        sentinel = redis.sentinel.Sentinel(  # type: ignore[no-untyped-call]  # redis-py
            list(self.hosts), sentinel_kwargs=self._sentinel_options(options), **self._own(options)
        )
        found: redis.Redis = sentinel.master_for(self.name)  # type: ignore[no-untyped-call]
        return found

    def client_async(self, **options: Any) -> redis.asyncio.Redis:
        """As `client`, for asyncio."""
        sentinel = redis.asyncio.sentinel.Sentinel(  # type: ignore[no-untyped-call]  # redis-py
            list(self.hosts), sentinel_kwargs=self._sentinel_options(options), **self._own(options)
        )
        found: redis.asyncio.Redis = sentinel.master_for(self.name)
        return found

    def _own(self, options: dict[str, Any]) -> dict[str, Any]:
        return {**options, "db": self.db, "username": self.username, "password": self.password}

    def _sentinel_options(self, options: dict[str, Any]) -> dict[str, Any]:
        same = {"socket_timeout", "socket_connect_timeout", "retry"}
        kept = {key: value for key, value in options.items() if key in same}
        if self.sentinel_password is not None:
            kept["password"] = self.sentinel_password
        return kept


def _place(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    return (host, int(port)) if colon else (text, _PORT)
