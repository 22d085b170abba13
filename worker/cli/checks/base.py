"""What one look at the host has found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from worker.config import NodeConfig
    from worker.engines import EngineState
    from worker.sandbox.engine_report import ExecutionCapabilities


class Verdict(StrEnum):
    """What a finding means for a node on this host."""

    OK = "ok"
    MISSING = "missing"
    """Some jobs cannot run here; others can."""
    BLOCKS = "blocks"
    """No job can run here until it is mended."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One finding."""

    name: str
    verdict: Verdict
    found: str
    """What is there."""
    why: str = ""
    """What follows from it; '' where all is well."""
    todo: str = ""
    """What to do about it; '' where nothing is to be done."""
    items: tuple[Mapping[str, str], ...] = ()
    """One by one, where it is made of several: the promises of an engine's sandbox."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Situation:
    """What the checks look at."""

    config: NodeConfig
    """As configured; the defaults where the configuration is wrong."""
    config_path: Path | None
    redis_url: str | None
    """From the command line."""
    env: Mapping[str, str] = field(default_factory=dict)

    probe: bool = False
    """Probe the engines, whatever is known of them."""
    known: list[ExecutionCapabilities] = field(default_factory=list)

    def capabilities(self) -> ExecutionCapabilities:
        """What this host's engines are good for: probed once for all checks."""
        from worker.attestor import capabilities

        if not self.known:
            self.known.append(capabilities(self.config, again=self.probe))
        return self.known[0]

    def engine(self) -> EngineState:
        """What the node's container engine is good for now."""
        from worker.engines import engine_state

        return engine_state(self.config, self.capabilities().engines)


def ok(name: str, found: str) -> Check:
    """All is well."""
    return Check(name=name, verdict=Verdict.OK, found=found)


def missing(name: str, found: str, *, why: str, todo: str) -> Check:
    """Some jobs cannot run."""
    return Check(name=name, verdict=Verdict.MISSING, found=found, why=why, todo=todo)


def blocks(name: str, found: str, *, why: str, todo: str) -> Check:
    """No job can run."""
    return Check(name=name, verdict=Verdict.BLOCKS, found=found, why=why, todo=todo)
