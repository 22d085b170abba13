"""What is done about limits that an engine cannot keep on this host. Pure.

Rootless Podman on version 1 of control groups keeps no limit on memory, processes or CPUs, and
where a controller is not delegated to the user it keeps none of that kind. What stands in:

==========  ======================================================================================
processes   RLIMIT_NPROC. Inside a user namespace of the container's own the kernel (5.14) counts
            the container's processes alone: as good as a control group
CPUs        as many as the job may use, rounded up, and a seccomp profile that lets it choose no
            others
memory      nothing that holds. The keeper measures, and ends a job that is over its limit; between
            two looks RLIMIT_DATA bounds each process, and nothing all of them together
==========  ======================================================================================

So a job with a limit on memory is refused there, unless the operator accepts that by name
(``podman.accept_unenforced``). The same goes for the others where nothing can stand in.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from worker.plan import Limits
from worker.sandbox.readback import Finding

MEMORY, PIDS, CPU = "memory", "pids", "cpu"
LIMITS: Final = (MEMORY, PIDS, CPU)
"""What an engine may fail to keep."""

STOOD_IN: Final = "stood in for"
UNENFORCED: Final = "not enforced"
_MIB: Final = 1 << 20
_DATA_SLACK: Final = 1 << 30
_COUNTS_BY_NAMESPACE: Final = (5, 14)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shortfall:
    """What an engine does not do on this host."""

    ignored: frozenset[str] = frozenset()
    """Of `LIMITS`."""
    why: str = ""
    pause: bool = True
    own_users: bool = False
    """Each container has a user namespace of its own."""
    kernel: tuple[int, int] = (0, 0)
    pins: bool = False
    """A job can be kept from choosing its CPUs."""

    def stands_in(self, limit: str) -> bool:
        """Whether something else holds what the engine does not keep."""
        match limit:
            case "pids":
                return self.own_users and self.kernel >= _COUNTS_BY_NAMESPACE
            case "cpu":
                return self.pins
            case _:
                return False


@dataclass(frozen=True, kw_only=True, slots=True)
class StandIns:
    """What is done for one attempt."""

    rlimits: tuple[Mapping[str, Any], ...] = ()
    """As the create call has ``Ulimits``."""
    cpus: int = 0
    """How many CPUs its processes are kept to; 0: all."""
    watched_memory_mb: int = 0
    """What the keeper's watchdog holds it to, MiB; 0: nothing."""
    watched_pids: int = 0
    """… in processes and threads."""
    held: tuple[str, ...] = ()
    """Limits that something stands in for."""
    accepted: tuple[str, ...] = ()
    """Limits that nothing holds, which the operator accepts."""
    refused: tuple[str, ...] = ()
    """Limits that nothing holds: the attempt may not start."""


def stand_ins(
    limits: Limits, shortfall: Shortfall, accepted: Iterable[str], *, gpu: bool = False
) -> StandIns:
    """For an attempt with these limits. ``accepted``: ``podman.accept_unenforced``.

    ``gpu``: its processes map far more than they use.
    """
    asked = {MEMORY: bool(limits.memory_mb), PIDS: True, CPU: bool(limits.cpu_cores)}
    missing = [one for one in LIMITS if one in shortfall.ignored and asked[one]]
    held = tuple(one for one in missing if shortfall.stands_in(one))
    rest = [one for one in missing if one not in held]
    rlimits: list[dict[str, Any]] = []
    if PIDS in held:
        rlimits.append({"Name": "nproc"})  # its number is the create call's own
    watched = limits.memory_mb if MEMORY in rest else 0
    if watched and not gpu:
        most = 2 * watched * _MIB + _DATA_SLACK
        rlimits.append({"Name": "data", "Soft": most, "Hard": most})
    return StandIns(
        rlimits=tuple(rlimits),
        cpus=math.ceil(limits.cpu_cores) if CPU in missing else 0,
        watched_memory_mb=watched,
        watched_pids=limits.pids if PIDS in rest else 0,
        held=held,
        accepted=tuple(one for one in rest if one in accepted),
        refused=tuple(one for one in rest if one not in accepted),
    )


def with_rlimits(asked: Mapping[str, Any], stand: StandIns) -> dict[str, Any]:
    """The create call with the limits that stand in."""
    host = asked["HostConfig"]
    pids = host["PidsLimit"]
    more = [{"Soft": pids, "Hard": pids, **one} for one in stand.rlimits]
    return {**asked, "HostConfig": {**host, "Ulimits": [*host["Ulimits"], *more]}}


def judged(findings: Iterable[Finding], stand: StandIns) -> list[Finding]:
    """What the host shows, where a limit is kept by another means or by none.

    A limit that is stood in for is good if that which stands in was seen to be as it should.
    """
    seen = {one.item: one for one in findings}
    return [_judged(one, stand, seen) for one in seen.values()]


def _judged(one: Finding, stand: StandIns, seen: Mapping[str, Finding]) -> Finding:
    if one.good:
        return one
    if one.item in stand.accepted:
        how = "; its keeper measures it" if one.item in (MEMORY, PIDS) else ""
        return replace(one, good=True, seen=f"{one.seen}{how}", keeping=UNENFORCED)
    if one.item in stand.held:
        proofs = {PIDS: ("nproc", "user namespace"), CPU: ("cpus",)}[one.item]
        found = [seen[name] for name in proofs if name in seen]
        if len(found) == len(proofs) and all(proof.good for proof in found):
            how = ", ".join(f"{proof.item} {proof.seen}" for proof in found)
            return replace(one, good=True, seen=f"{one.seen}, but {how}", keeping=STOOD_IN)
    return one


def refusal(stand: StandIns, shortfall: Shortfall, engine: str) -> str:
    """Why an attempt may not start, for people; '' if it may."""
    if not stand.refused:
        return ""
    names = " and ".join(stand.refused)
    return (
        f"the limit on {names} would not be kept: {engine} on this host ignores it "
        f"({shortfall.why}); podman.accept_unenforced: [{', '.join(stand.refused)}] would accept "
        "that for every job of this node"
    )


def kernel_version(release: str) -> tuple[int, int]:
    """``6.18.44-x`` is (6, 18); what is none is (0, 0)."""
    parts = release.split(".")
    try:
        return int(parts[0]), int("".join(filter(str.isdigit, parts[1].split("-")[0])))
    except (IndexError, ValueError):
        return 0, 0
