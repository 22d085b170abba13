"""How an engine is asked for a container, and how it shows what it made of it.

The create call of Docker's API is what every engine is *asked for* here, by each item's name. How
the words are put to the engine, and what it cannot keep, is its own affair.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from worker.runtimes.engine import toolkit
from worker.runtimes.engine.client import Version
from worker.runtimes.engine.errors import SandboxUnavailable
from worker.runtimes.engine.manager import ContainerManager
from worker.sandbox.engine_report import EngineFacts
from worker.sandbox.readback import Finding, compare
from worker.sandbox.standins import Shortfall

_REMAPPED: Final = re.compile(r"/(\d+)\.(\d+)$")


class Making(Protocol):
    """Makes containers of one engine."""

    def unusable(self) -> str:
        """Why this engine, which answers, cannot be used by this node; '' if it can.

        Raises EngineError.
        """
        ...

    def shortfall(self) -> Shortfall:
        """What the engine does not do on this host. Raises EngineError."""
        ...

    def facts(self, version: Version, loosened: tuple[str, ...]) -> EngineFacts:
        """What it is, without a probe. Raises EngineError."""
        ...

    def first_ids(self) -> tuple[int, int]:
        """Which uid and gid of the host a container's 0 is, where the engine moves them; else 0.
        Raises EngineError."""
        ...

    def asked(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The create call with what is this engine's own."""
        ...

    def create(self, name: str, asked: Mapping[str, Any]) -> str:
        """Make it; its id. Raises EngineError; `Conflict`: the name is taken."""
        ...

    def read_back(self, container: str, asked: Mapping[str, Any]) -> list[Finding]:
        """What the engine says that it made of it. Raises EngineError."""
        ...


class DockerMaking:
    """As the API has it: Docker says no where it cannot do something."""

    def __init__(self, manager: ContainerManager, place: Path) -> None:
        """``place`` is not needed: what Docker reads is in the call."""
        self._manager = manager
        self._told_by = ""
        self._first = (0, 0)

    def unusable(self) -> str:
        return ""

    def shortfall(self) -> Shortfall:
        return Shortfall()

    def facts(self, version: Version, loosened: tuple[str, ...]) -> EngineFacts:
        info = self._manager.info()
        options = map(str, info.get("SecurityOptions") or ())
        return EngineFacts(
            name="docker",
            version=version.engine,
            runtime=f"{info.get('DefaultRuntime') or ''} {_first(version, 'runc')}".strip(),
            toolkit=toolkit.described("registered" if self._manager.has_toolkit() else ""),
            rootless=any("name=rootless" in one for one in options),
            cgroup_version=int(info.get("CgroupVersion") or 1),
            storage=str(info.get("Driver") or ""),
            loosened=loosened,
        )

    def first_ids(self) -> tuple[int, int]:
        """With ``userns-remap``; its data are in a directory that is named for them."""
        server = self._manager.client.version().server
        if server != self._told_by:
            info = self._manager.info()
            options = map(str, info.get("SecurityOptions") or ())
            if any("name=userns" in one for one in options):
                root = str(info.get("DockerRootDir") or "")
                match = _REMAPPED.search(root)
                if match is None:
                    raise SandboxUnavailable(
                        f"userns-remap is on, and {root} does not say which users jobs are"
                    )
                self._first = int(match[1]), int(match[2])
            self._told_by = server
        return self._first

    def asked(self, config: Mapping[str, Any]) -> dict[str, Any]:
        return dict(config)

    def create(self, name: str, asked: Mapping[str, Any]) -> str:
        return self._manager.create(name, asked)

    def read_back(self, container: str, asked: Mapping[str, Any]) -> list[Finding]:
        return compare(asked, self._manager.inspect(container))


def _first(version: Version, part: str) -> str:
    """The version of a part; only its first word: what follows is for people."""
    return (version.components.get(part) or "").partition("\n")[0].strip()
