"""What the container engines of a host are good for, from what a probe has shown. Pure.

A probe is a container with the whole policy. The host looks at it, and its program tries what it
may not do. A promise of the sandbox holds if everybody who can tell says so. What an engine says of
itself counts for nothing here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from worker.sandbox.engine_report import EngineFacts, EngineReport, Keeping, Promise
from worker.sandbox.gvisor import KERNEL
from worker.sandbox.known_holes import known_holes
from worker.sandbox.probed import Inside, Probed
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
_DEVICES: Final = "devices"
"""… but for this one, of which the inside tells."""
_LOOSENED: Final = {
    "network": "no_network",
    "capabilities": "drop_capabilities",
    "read-only root": "read_only_root",
}
"""Promises that an operator may take back, by the key of ``docker.security``."""
_OWN_DEVICES: Final = frozenset(
    {
        *("console", "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm"),
        *("stderr", "stdin", "stdout", "tty", "urandom", "zero"),
    }
)
"""What each container has in /dev."""

_GVISORS_DEVICES: Final = frozenset({"fuse", "net"})
"""… and what gVisor's kernel makes up beside."""


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
            name=_DEVICES,
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
            name=_DEVICES,
            keeping=Keeping.REFUSED,
            seen=", ".join(more),
            why=f"a job without a device would have /dev/{more[0]}",
            todo="see which default of the engine gives devices to each container",
        )
    return Promise(name=_DEVICES, keeping=Keeping.ENFORCED, seen="none but its own")


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
