"""Whether ``cyxwiz demo`` can train in a container: where an engine and the image are there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tasks.errors import RuntimeUnavailable
from worker.config import NodeConfig
from worker.engines import Engines

IMAGE: Final = "cyxwiz/executor:cpu-latest"
_SOCKET: Final = Path("/var/run/docker.sock")


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoSandbox:
    """What was found."""

    socket: Path
    engine: str
    """Its name and version; '' if there is none to use."""
    why_not: str
    """'' if jobs can run in containers."""

    @property
    def usable(self) -> bool:
        return not self.why_not

    @property
    def described(self) -> list[str]:
        """Which way the demo's node runs jobs, for people."""
        if self.usable:
            return [
                f"node: one of the demo's own; execution.mode: docker ({self.engine}): the job",
                f"  runs in a container of {IMAGE}, without network, and may write to",
                "  its output alone",
            ]
        return [
            "node: one of the demo's own; execution.mode: native, since there is no sandbox:",
            f"  {self.why_not};",
            "  execution.allow_untrusted_native: true, since the demo's job is not signed (a node",
            "  that takes the jobs of strangers should not say so)",
        ]


def demo_sandbox(env: Mapping[str, str], directory: Path) -> DemoSandbox:
    """Ask the engine at ``DOCKER_HOST``, or where Docker's socket is."""
    host = env.get("DOCKER_HOST", "")
    if host and not host.startswith("unix:///"):
        return DemoSandbox(
            socket=_SOCKET, engine="", why_not=f"DOCKER_HOST is {host}, which is no Unix socket"
        )
    socket = Path(host.removeprefix("unix://")) if host else _SOCKET
    sections = {
        "execution": {"mode": "docker"},
        "docker": {"socket": str(socket)},
        "node": {"name": "demo", "state_dir": str(directory / "state")},
    }
    engines = Engines(NodeConfig.model_validate(sections), abandon_after=0.0)
    try:
        state = engines.state()
        why_not = state.reason or _no_image(engines)
    finally:
        engines.close()
    engine = f"{state.name} {state.version}" if state.usable else ""
    return DemoSandbox(socket=socket, engine=engine, why_not=why_not)


def _no_image(engines: Engines) -> str:
    try:
        engines.runtime().images.present(IMAGE)
    except RuntimeUnavailable as error:
        return f"{error} (`make images FLAVOURS=cpu` makes it)"
    return ""
