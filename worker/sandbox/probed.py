"""What came of a probe: what the host saw of it, and what its program saw and tried inside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from worker.sandbox.readback import Finding


@dataclass(frozen=True, kw_only=True, slots=True)
class Inside:
    """What the probe's program saw and tried; None where it did not come to that."""

    uid: int | None = None
    wrote_root: bool | None = None
    capabilities: str | None = None
    links: tuple[str, ...] | None = None
    """Its network interfaces that are up, but the loopback."""
    devices: tuple[str, ...] | None = None
    made_users: bool | None = None
    """Whether it could make a user namespace, in which it would have all rights."""
    chose_cpus: bool | None = None
    """Whether it may choose which CPUs it runs on."""
    forked: int | None = None
    """How many children it could have at once, of more than it may."""
    took_memory: bool | None = None
    """Whether a child could take half as much again as it may."""
    gvisor: bool | None = None
    """Whether the kernel's own log is gVisor's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Probed:
    """What came of a probe."""

    image: str
    limits: Mapping[str, float]
    """The probe's, by promise."""
    findings: tuple[Finding, ...] = ()
    inside: Inside = Inside()
    error: str = ""
    """Why it came to nothing; '' if it ran."""


def probed_from(content: Mapping[str, Any]) -> Probed:
    """What `dataclasses.asdict` made of one. Raises KeyError, TypeError: it is of another form."""
    inside: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in content["inside"].items()
    }
    findings = tuple(Finding(**one) for one in content["findings"])
    return Probed(**{**content, "findings": findings, "inside": Inside(**inside)})
