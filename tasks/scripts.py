"""The Lua scripts of `tasks/lua`, read at import and called by their digest."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any, Final

import redis

from tasks.errors import BrokenRecord

_HELD = ("renew", "publish", "finish", "requeue", "summon", "spend", "sent")
"""Scripts that only the holder of a lease may run: `held.lua` stands before them."""


# Read at once: a process whose program is replaced on the disk keeps its own version's scripts.
_TEXTS: Final = {
    file.name.removesuffix(".lua"): file.read_text("utf-8")
    for file in (files("tasks") / "lua").iterdir()
    if file.name.endswith(".lua")
}


@cache
def source(name: str) -> str:
    """The whole text of one script."""
    parts = ["common", *(["held"] if name in _HELD else []), name]
    return "\n".join(_TEXTS[part] for part in parts)


class Scripts:
    """Calls scripts on one client. The first call of each loads it, again after a Redis restart."""

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        self._client = client
        self._prefix = prefix
        self._loaded: dict[str, Any] = {}

    def call(self, name: str, *args: str | int) -> Any:
        """Run the script ``name``; the prefix comes before ``args``. Raises BrokenRecord."""
        script = self._loaded.get(name)
        if script is None:
            script = self._loaded[name] = self._client.register_script(source(name))
        try:
            return script(args=[self._prefix, *args])
        except redis.ResponseError as error:
            if _of_the_record(error):
                raise BrokenRecord(f"{name}: {error}") from error
            raise


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
