"""What the container engines of a host are good for, from what a probe has shown. Pure.

A probe is a container with the whole policy. The host looks at it, and its program tries what it
may not do. A promise of the sandbox holds if everybody who can tell says so. What an engine says of
itself counts for nothing here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from worker.sandbox.gvisor import KERNEL
from worker.sandbox.levels import SandboxLevel
from worker.sandbox.readback import Finding
from worker.sandbox.standins import CPU, MEMORY, PIDS, STOOD_IN, UNENFORCED

_DETAILS: Final = (
    ("user", ("uid", "gid", "groups", "user namespace")),
    ("capabilities", ("capabilities",)),
    ("privileges", ("no_new_privs",)),
    ("system calls", ("seccomp",)),
    ("read-only root", ("root", "writable mounts", "/tmp")),
    ("namespaces", ("namespaces shared with the host",)),
    ("network", ("network routes",)),
    (MEMORY, ("memory",)),
    (PIDS, ("pids",)),
    (CPU, ("cpu",)),
    ("open files", ("nofile", "core", "fsize")),
)
"""Each promise, and which findings on the host it rests on."""
_LOOSENED: Final = {
    "network": "no_network",
    "capabilities": "drop_capabilities",
    "read-only root": "read_only_root",
}
"""Promises that an operator may take back, by the key of ``docker.security``."""
DEVICES: Final = "devices"
"""… but for this one, of which the inside tells."""
_OWN_DEVICES: Final = frozenset(
    {
        *("console", "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm"),
        *("stderr", "stdin", "stdout", "tty", "urandom", "zero"),
    }
)
"""What each container has in /dev."""

_GVISORS_DEVICES: Final = frozenset({"fuse", "net"})
"""… and what gVisor's kernel makes up beside."""


class Keeping(StrEnum):
    """How a promise is kept."""

    ENFORCED = "enforced"
    STOOD_IN = "stood in for"
    """By something else than the engine, which was seen to hold."""
    ACCEPTED = "not enforced, and accepted"
    REFUSED = "refused"
    """It does not hold: jobs that it is made to do not run in this engine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Promise:
    """One promise of the sandbox on this host."""

    name: str
    keeping: Keeping
    seen: str
    """What was seen of it."""
    why: str = ""
    """Why it does not hold; '' where it does."""
    todo: str = ""
    """What to do about that."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineFacts:
    """What is known of an engine without a probe."""

    name: str
    version: str
    runtime: str = ""
    """Of the OCI runtime, such as ``runc 1.1.5``."""
    toolkit: str = ""
    """NVIDIA's container toolkit: its version and how the engine knows it, as far as that is
    known; '' where none was found."""
    gvisor: bool = False
    """Jobs are to have gVisor's kernel."""
    rootless: bool = False
    cgroup_version: int = 0
    storage: str = ""
    why_ignored: str = ""
    """Why it keeps no limits here; '' if it does."""
    loosened: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineReport:
    """One container engine of this host."""

    facts: EngineFacts
    available: bool = False
    """It answers, and this node may use it."""
    reason: str = ""
    """Why jobs do not run in it; '' if they do."""
    todo: str = ""
    promises: tuple[Promise, ...] = ()
    """Empty where no probe has run."""
    images: tuple[str, ...] = ()
    """Those that the node may use."""
    warnings: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """Jobs that need a sandbox may run in it."""
        return self.available and not self.reason

    @property
    def gvisor(self) -> bool:
        """It was seen that jobs have gVisor's kernel."""
        return self.usable and self.facts.gvisor and KERNEL in self.enforced

    @property
    def enforced(self) -> tuple[str, ...]:
        """The promises that hold, by whatever means."""
        held = (Keeping.ENFORCED, Keeping.STOOD_IN)
        return tuple(one.name for one in self.promises if one.keeping in held)

    @property
    def level(self) -> SandboxLevel:
        """None, unless each promise holds and the operator has loosened nothing."""
        whole = self.promises and len(self.enforced) == len(self.promises)
        if not self.usable or not whole or self.facts.loosened:
            return SandboxLevel.NONE
        return SandboxLevel.BASIC if self.facts.rootless else SandboxLevel.FULL


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecutionCapabilities:
    """What a host can do for jobs that want a container."""

    engines: tuple[EngineReport, ...] = ()
    has_gvisor: bool = False
    """The engine that would be used gives jobs gVisor's kernel."""

    @property
    def docker_available(self) -> bool:
        return self._available("docker")

    @property
    def podman_available(self) -> bool:
        return self._available("podman")

    @property
    def nvidia_toolkit(self) -> bool:
        """An engine that can be used has NVIDIA's toolkit."""
        return any(one.usable and one.facts.toolkit for one in self.engines)

    @property
    def max_sandbox_level(self) -> SandboxLevel:
        return max((one.level for one in self.engines), default=SandboxLevel.NONE)

    @property
    def available_images(self) -> tuple[str, ...]:
        return tuple(sorted({image for one in self.engines if one.usable for image in one.images}))

    def engine(self, name: str) -> EngineReport | None:
        return next((one for one in self.engines if one.facts.name == name), None)

    def best(self) -> EngineReport | None:
        """The usable engine of the highest level; Docker, where two are alike. None: there is
        none."""
        usable = [one for one in self.engines if one.usable]
        return max(usable, key=lambda one: (one.level, one.facts.name == "docker"), default=None)

    def _available(self, name: str) -> bool:
        found = self.engine(name)
        return found is not None and found.available


def judge(facts: EngineFacts, probed: Probed, accepted: Iterable[str] = ()) -> tuple[Promise, ...]:
    """Each promise, from what the host and the inside show. ``accepted``: limits that the operator
    goes without."""
    seen = {one.item: one for one in probed.findings}
    found = []
    for name, items in _DETAILS:
        details = [seen[item] for item in items if item in seen]
        found.append(_promise(name, details, facts, probed, frozenset(accepted)))
    if facts.gvisor:
        details = [one for one in probed.findings if one.item == KERNEL]
        found.append(_promise(KERNEL, details, facts, probed, frozenset()))
    found.append(_devices(probed.inside, facts))
    return tuple(found)


def _promise(
    name: str,
    details: Sequence[Finding],
    facts: EngineFacts,
    probed: Probed,
    accepted: frozenset[str],
) -> Promise:
    if _LOOSENED.get(name) in facts.loosened:
        why = f"docker.security.{_LOOSENED[name]} is false"
        return Promise(name=name, keeping=Keeping.ACCEPTED, seen="", why=why)
    inside = _contradiction(name, facts, probed, {one.keeping for one in details})
    text = ", ".join(f"{one.item} {one.seen}".replace("\t", " ").strip() for one in details)
    bad = [str(one) for one in details if not one.good]
    keepings = {one.keeping for one in details}
    if not details:
        bad.append("the host shows nothing of it")
    if inside:
        bad.append(inside)
    if UNENFORCED in keepings or (bad and name in (MEMORY, PIDS, CPU)):
        return _lacking(name, text, facts, "; ".join(bad), accepted)
    if bad:
        return Promise(
            name=name,
            keeping=Keeping.REFUSED,
            seen=text,
            why="; ".join(bad),
            todo=f"see what {facts.name} {facts.version} or a plugin of it changes in containers",
        )
    keeping = Keeping.STOOD_IN if STOOD_IN in keepings else Keeping.ENFORCED
    return Promise(name=name, keeping=keeping, seen=text)


def _lacking(
    name: str, seen: str, facts: EngineFacts, bad: str, accepted: frozenset[str]
) -> Promise:
    """A limit that nothing keeps."""
    why = facts.why_ignored or bad or "the engine takes it and does not apply it"
    taken = name in accepted
    return Promise(
        name=name,
        keeping=Keeping.ACCEPTED if taken else Keeping.REFUSED,
        seen=seen,
        why=f"the limit on {name} is not kept: {why}",
        todo=f"mend that, or accept it for every job: podman.accept_unenforced: [{name}]"
        if facts.name == "podman"
        else f"see that the kernel has the control group of {name}, and that docker info warns "
        "of nothing",
    )


def _contradiction(name: str, facts: EngineFacts, probed: Probed, keepings: set[str]) -> str:
    """What the inside shows against a promise that is kept in these ways; '' for nothing."""
    inside, limits = probed.inside, probed.limits
    match name:
        case "user" if inside.uid == 0:
            return "inside it is root"
        case "capabilities" if inside.capabilities and int(inside.capabilities, 16):
            return f"inside it has {inside.capabilities}"
        case "kernel" if inside.gvisor is not True:
            return "inside, the kernel's log is not gVisor's"
        case "system calls" if inside.made_users and not facts.gvisor:
            return (
                "inside it could make a user namespace: the engine's seccomp profile is not known"
            )
        case "read-only root" if inside.wrote_root:
            return "inside it could write to /"
        case "network" if inside.links:
            return f"inside there is {', '.join(inside.links)}"
        case "pids" if inside.forked is not None and inside.forked > limits[PIDS]:
            return f"inside it had {inside.forked} processes of {limits[PIDS]:g}"
        case "cpu" if STOOD_IN in keepings and inside.chose_cpus is not False:
            return "inside it could choose its CPUs"
        case "memory" if inside.took_memory:
            return f"inside it took half as much again as its {limits[MEMORY]:g} MiB"
        case _:
            return ""


def _devices(inside: Inside, facts: EngineFacts) -> Promise:
    if inside.devices is None:
        return Promise(
            name=DEVICES,
            keeping=Keeping.REFUSED,
            seen="nothing",
            why="the probe's program did not tell of its devices",
            todo="cyxwiz doctor --probe; if that stays, name an image with python3 that works in "
            "docker.preload_images",
        )
    more = sorted(
        set(inside.devices) - _OWN_DEVICES - (_GVISORS_DEVICES if facts.gvisor else set())
    )
    if more:
        return Promise(
            name=DEVICES,
            keeping=Keeping.REFUSED,
            seen=", ".join(more),
            why=f"a job without a device would have /dev/{more[0]}",
            todo="see which default of the engine gives devices to each container",
        )
    return Promise(name=DEVICES, keeping=Keeping.ENFORCED, seen="none but its own")


def concluded(
    facts: EngineFacts,
    probed: Probed,
    *,
    accepted: Iterable[str],
    images: Sequence[str],
    require_patched: bool,
) -> EngineReport:
    """The report of an engine that was probed."""
    accepted = tuple(accepted)
    holes = known_holes(facts)
    warnings = (*holes, *_warnings(facts))
    if probed.error:
        return EngineReport(
            facts=facts,
            available=True,
            reason=f"the probe came to nothing: {probed.error}",
            todo=_cure(probed.error),
            images=tuple(images),
            warnings=warnings,
        )
    promises = judge(facts, probed, accepted)
    refused = [one for one in promises if one.keeping is Keeping.REFUSED]
    reason = "; ".join(f"{one.name}: {one.why}" for one in refused)
    todo = refused[0].todo if refused else ""
    if require_patched and holes and not reason:
        reason = f"trust.require_patched is true, and {holes[0]}"
        todo = "install a version without that hole"
    return EngineReport(
        facts=facts,
        available=True,
        reason=reason,
        todo=todo,
        promises=promises,
        images=tuple(images),
        warnings=warnings,
    )


_OTHER_RUNTIME: Final = (
    'set runtime = "runc" in the section [engine] of ~/.config/containers/containers.conf, and '
    "restart Podman's service"
)


def _cure(error: str) -> str:
    low = error.lower()
    if "crun" in low and "cgroup" in low:
        return (
            f"crun refuses control groups of both versions at once: {_OTHER_RUNTIME}; or boot with "
            "version 2 alone"
        )
    if "did not take runtime" in low:
        return f"Podman's API does not let the runtime be chosen, up to version 5: {_OTHER_RUNTIME}"
    if "image" in low:
        return "have an image there that the node may use: see docker.preload_images"
    return "cyxwiz doctor --probe shows it again; the engine's own log says more"


def _warnings(facts: EngineFacts) -> list[str]:
    text = (
        "Podman's storage driver is vfs, which copies the whole image for each container: set "
        'driver = "overlay" in ~/.config/containers/storage.conf, then podman system reset'
    )
    return [text] if facts.storage == "vfs" else []


# --- versions with known holes

_NUMBERS: Final = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")
_RUNC: Final = "CVE-2025-31133, CVE-2025-52565 and CVE-2025-52881"
_TOOLKIT: Final = "CVE-2024-0132, CVE-2025-23359 and CVE-2025-23266"


def known_holes(facts: EngineFacts) -> list[str]:
    """What is known of these versions. A distribution may have mended them under an old number, so
    this is a warning and no proof."""
    found = []
    if facts.runtime.startswith("runc"):
        version = _version(facts.runtime)
        if version and (version < (1, 2, 8) or (1, 3, 0) <= version < (1, 3, 3)):
            found.append(
                f"{facts.runtime} has known holes ({_RUNC}), unless your distribution has mended "
                "them: 1.2.8 and 1.3.3 are without"
            )
    toolkit = facts.toolkit.partition(" ")[0]  # what follows is how it was found
    version = _version(toolkit) if toolkit[:1].isdigit() else None
    if version and version < (1, 17, 8):
        found.append(
            f"NVIDIA container toolkit {toolkit} has known holes ({_TOOLKIT}), unless your "
            "distribution has mended them: 1.17.8 is without"
        )
    return found


def _version(text: str) -> tuple[int, int, int] | None:
    found = _NUMBERS.search(text)
    if found is None:
        return None
    return int(found[1]), int(found[2]), int(found[3] or 0)


# --- to and from the cache


def to_json(report: EngineReport) -> dict[str, Any]:
    """For people and programs: ``cyxwiz doctor --json``."""
    facts = report.facts
    return {
        "engine": {name: getattr(facts, name) for name in EngineFacts.__dataclass_fields__},
        "available": report.available,
        "usable": report.usable,
        "level": report.level.name.lower(),
        "reason": report.reason,
        "todo": report.todo,
        "promises": [
            {name: str(getattr(one, name)) for name in Promise.__dataclass_fields__}
            for one in report.promises
        ],
        "images": list(report.images),
        "warnings": list(report.warnings),
    }


def probed_from(content: Mapping[str, Any]) -> Probed:
    """What `dataclasses.asdict` made of one. Raises KeyError, TypeError: it is of another form."""
    inside: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in content["inside"].items()
    }
    findings = tuple(Finding(**one) for one in content["findings"])
    return Probed(**{**content, "findings": findings, "inside": Inside(**inside)})
