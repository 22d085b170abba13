"""The Lua scripts of `tasks/lua`, loaded once and called by their digest."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import redis

_HELD = ("renew", "publish", "finish", "requeue", "summon", "spend")
"""Scripts that only the holder of a lease may run: `held.lua` stands before them."""


@cache
def source(name: str) -> str:
    """The whole text of one script."""
    folder = files("tasks") / "lua"
    parts = ["common", *(["held"] if name in _HELD else []), name]
    return "\n".join((folder / f"{part}.lua").read_text("utf-8") for part in parts)


class Scripts:
    """Calls scripts on one client. The first call of each loads it, again after a Redis restart."""

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        self._client = client
        self._prefix = prefix
        self._loaded: dict[str, Any] = {}

    def call(self, name: str, *args: str | int) -> Any:
        """Run the script ``name``; the prefix comes before ``args``."""
        script = self._loaded.get(name)
        if script is None:
            script = self._loaded[name] = self._client.register_script(source(name))
        return script(args=[self._prefix, *args])
