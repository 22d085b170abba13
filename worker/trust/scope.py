"""What the jobs of a key may have on this node. Pure.

A scope only ever adds to what any job may have: native runs, the network, secrets, more images.
Its maxima hold for the key's jobs alone, and never above the node's own.
"""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Annotated, Final

from pydantic import Field

from tasks.choices import Network
from tasks.job import JobConfig
from worker.plan import Limits
from worker.section import Amount, Flag, Section

_NO_MORE: Final = "a whole number; 0: as much as any job"
Pattern = Annotated[str, Field(min_length=1, max_length=256)]


class MostSection(Section):
    """The most that a job of the key may ask for; 0: as much as any job."""

    memory_mb: Amount = Field(0, description=f"MiB, {_NO_MORE}")
    cpu_cores: float = Field(0, ge=0, description="a number of cores; 0: as much as any job")
    shm_size_mb: Amount = Field(0, description=f"MiB, {_NO_MORE}")
    gpus: Amount = Field(0, description=_NO_MORE)
    timeout_seconds: float = Field(
        0, ge=0, description="seconds; 0: as long as any job; else a job must say how long it takes"
    )


class Scope(Section):
    """See the module's docstring. The default is nothing at all."""

    native: Flag = False
    """May run without a container, if the job says `sandbox: none` (or there is no engine)."""
    network: Flag = False
    """May say `network: bridge`."""
    images: tuple[Pattern, ...] = Field(
        (),
        strict=False,
        description="a list of patterns of image references, beside those of images.allow",
    )
    exec: Flag = False
    """May run commands beside trusted jobs, where `trust.allow_exec` is true."""
    secrets: tuple[Pattern, ...] = Field(
        (), strict=False, description="a list of patterns of names of the node's secrets"
    )
    max: MostSection = Field(default_factory=MostSection)

    def uncovered(self, job: JobConfig) -> list[str]:
        """What the job asks for that needs trust and this scope does not give; [] if nothing."""
        found = []
        if job.network is not Network.NONE and not self.network:
            found.append(f"network: {job.network} is not in the key's scope")
        denied = [name for name in job.secrets if not matches(name, self.secrets)]
        if denied:
            found.append(f"secrets: {', '.join(denied)} not in the key's scope")
        for name in MostSection.model_fields:
            most, ask = getattr(self.max, name), _ask(job, name)
            if most and ask is None and name == "timeout_seconds":
                found.append(f"{name}: is missing; the key's scope allows at most {most:g}")
            elif most and ask is not None and ask > most:
                found.append(f"{name}: {ask:g}; the key's scope allows at most {most:g}")
        return found

    def capped(self, limits: Limits) -> Limits:
        """``limits`` under the maxima: of what a job does not ask for, it gets a default."""
        return replace(
            limits,
            memory_mb=round(_least(limits.memory_mb, self.max.memory_mb)),
            cpu_cores=_least(limits.cpu_cores, self.max.cpu_cores),
            shm_size_mb=round(_least(limits.shm_size_mb, self.max.shm_size_mb)),
        )


def _least(limit: float, most: float) -> float:
    """The lower of two, of which 0 is none."""
    return min(limit, most) if limit and most else limit or most


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether one of ``patterns`` (``*``, ``?``, ``[…]``) is for ``name``."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _ask(job: JobConfig, name: str) -> float | None:
    if name == "gpus":
        return job.width
    ask: float | None = getattr(job, name)
    return ask
