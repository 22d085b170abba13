"""Which container an attempt has, written down before it is made, and its end without a keeper.

The note is what `settle` needs where everybody else is dead: the engine, and the container's name.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from worker.keeper import engine, procfs

NOTE: Final = "container.json"
_AGAIN: Final = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Noted:
    """The container of an attempt."""

    socket: str
    api: str
    name: str
    keep: bool
    """Leave the stopped container to the engine, for people to look at."""

    @property
    def url(self) -> str:
        return f"/v{self.api}/containers/{self.name}"


def write(directory: Path, noted: Noted) -> None:
    """Note the container of the attempt in ``directory``."""
    content = {
        "socket": noted.socket,
        "api": noted.api,
        "name": noted.name,
        "keep": noted.keep,
    }
    partial = directory / f".{NOTE}.partial"
    partial.write_text(json.dumps(content))
    partial.replace(directory / NOTE)


def read(directory: Path) -> Noted | None:
    """None: the attempt has no container."""
    try:
        content = json.loads((directory / NOTE).read_bytes())
        return Noted(
            socket=str(content["socket"]),
            api=str(content["api"]),
            name=str(content["name"]),
            keep=bool(content["keep"]),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        # it was being written when the host went down: then nothing was made either
        return None


def end(directory: Path, until: float) -> bool:
    """Kill and remove the container of the attempt in ``directory``, if it has one.

    False: it may still run at ``until`` (seconds of time.monotonic()); the engine does not answer.
    """
    noted = read(directory)
    if noted is None:
        return True
    while True:
        if _ended(noted, max(0.5, until - time.monotonic())):
            return True
        if time.monotonic() >= until:
            return False
        time.sleep(_AGAIN)


def _end_what_stands_still(noted: Noted, within: float) -> None:
    """The engine would thaw it, and kill its first process alone."""
    seen = engine.call(noted.socket, "GET", f"{noted.url}/json", within=within)
    state = json.loads(seen.body)["State"] if seen.ok else {}
    if state.get("Paused") and state.get("Pid"):
        procfs.kill_below(int(state["Pid"]))


def _ended(noted: Noted, within: float) -> bool:
    try:
        _end_what_stands_still(noted, within)
        if noted.keep:
            engine.call(noted.socket, "POST", f"{noted.url}/kill?signal=9", within=within)
            seen = engine.call(noted.socket, "GET", f"{noted.url}/json", within=within)
            return seen.status == 404 or (
                seen.ok and not json.loads(seen.body)["State"].get("Running")
            )
        gone = engine.call(noted.socket, "DELETE", f"{noted.url}?force=1&v=1", within=within)
    except (OSError, ValueError, KeyError):
        return False
    # 409: somebody removes it already, and it is there until they have
    return gone.ok or gone.status == 404
