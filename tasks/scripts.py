"""The Lua scripts of `tasks/lua`, read at import and called by their digest."""

from __future__ import annotations

import os
import threading
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Any, Final

import redis
from redis.exceptions import NoScriptError
from redis.sentinel import SentinelConnectionPool

from tasks.errors import BrokenRecord

_HELD = ("renew", "publish", "finish", "requeue", "summon", "spend", "sent")
"""Scripts that only the holder of a lease may run: `held.lua` stands before them."""
_TELLING = ("tell", "finish")
"""Scripts that store Celery's result: `telling.lua` stands before them."""


# Read at once: a process whose program is replaced on the disk keeps its own version's scripts.
_TEXTS: Final = {
    file.name.removesuffix(".lua"): file.read_text("utf-8")
    for file in (files("tasks") / "lua").iterdir()
    if file.name.endswith(".lua")
}


@cache
def source(name: str) -> str:
    """The whole text of one script."""
    telling = ["telling"] if name in _TELLING else []
    held = ["held"] if name in _HELD else []
    parts = ["common", *telling, *held, name]
    return "\n".join(_TEXTS[part] for part in parts)


@cache
def _digest(name: str) -> str:
    return sha1(source(name).encode(), usedforsecurity=False).hexdigest()


class Scripts:
    """Calls scripts by a client's settings. A script that Redis does not know is loaded.

    Each thread has a connection of its own: to fetch one from a pool, and all else that a client
    does for any command, costs several times what a script's call does. Where Sentinels say which
    Redis is the primary, the client is asked all the same: all its connections go there together.
    """

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        self._client = client
        self._pool = client.connection_pool
        self._has_sentinel = isinstance(self._pool, SentinelConnectionPool)
        self._prefix = prefix
        self._mine = threading.local()

    def call(self, name: str, *args: str | int) -> Any:
        """Run the script ``name``; the prefix comes before ``args``. Raises BrokenRecord."""
        try:
            try:
                return self._send("EVALSHA", _digest(name), 0, self._prefix, *args)
            except NoScriptError:
                self._send("SCRIPT", "LOAD", source(name))
                return self._send("EVALSHA", _digest(name), 0, self._prefix, *args)
        except redis.ResponseError as error:
            if _of_the_record(error):
                raise BrokenRecord(f"{name}: {error}") from error
            raise

    def _send(self, *command: str | int) -> Any:
        """Raises redis.RedisError."""
        if self._has_sentinel:
            return self._client.execute_command(*command)  # type: ignore[no-untyped-call]  # redis
        connection = self._connection()
        try:
            connection.send_command(*command)
            return connection.read_response()
        except redis.ResponseError:
            raise
        except BaseException:  # an answer that is still to come would be taken for the next one's
            connection.disconnect()
            raise

    def _connection(self) -> Any:
        """This thread's, which is there: a Redis that has closed it is connected to again."""
        mine = self._mine
        if getattr(mine, "pid", 0) != os.getpid():  # never one of before a fork
            # not the pool's to count: it never hears of the end of a thread
            made = self._pool.connection_class(**self._pool.connection_kwargs)
            mine.connection, mine.pid = made, os.getpid()
        connection = mine.connection
        connection.connect()
        try:
            stale = connection.can_read(timeout=0)
        except (redis.ConnectionError, redis.TimeoutError, OSError):
            stale = True
        if stale:
            connection.disconnect()
            connection.connect()
        return connection


_OF_THE_SERVER: Final = (
    *("OOM", "MISCONF", "READONLY", "NOREPLICAS", "LOADING", "BUSY", "NOPERM", "MASTERDOWN"),
    *("CLUSTERDOWN", "TRYAGAIN", "NOSCRIPT", "NOAUTH", "UNKILLABLE"),
)
"""What a script's error begins with where the server cannot do what it is asked for."""


def _of_the_record(error: redis.ResponseError) -> bool:
    """Whether a script has failed on what it found.

    redis-py has classes for what servers say most often, and takes the first word away for them.
    """
    text = str(error)
    return (
        type(error) is redis.ResponseError
        and "user_script" in text
        and not text.startswith(_OF_THE_SERVER)
    )
