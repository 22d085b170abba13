"""Whether a request can be met, and with which devices. Pure: no file, no driver, no clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from worker.devices.inventory import Device, Snapshot
from worker.devices.strategy import Candidate, Strategy, pick

_ROUNDING = 1e-9
UNEXPLAINED_MB = 1024
"""Memory of a device that no process is seen to hold, and that is no leftover yet: the driver's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What somebody wants."""

    count: int = 1
    only: frozenset[str] | None = None
    """The UUIDs that it may be; None: any."""
    share: float = 1.0
    """Of each device; 1: all of it, and nobody else on it."""
    memory_mb: int = 0
    """Of each device, MiB; 0: what there is."""
    user: str = ""
    one_process: bool = True
    """The job is one process: it can use one MIG instance, not several."""

    @property
    def exclusive(self) -> bool:
        return self.share >= 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """A lease of one device."""

    device: str
    lease: str
    share: float = 1.0
    memory_mb: int = 0
    slot: str = ""
    attempt: str = ""
    pid: int = 0
    """Of the process that took it."""
    start: int = 0
    """When that process began, clock ticks since boot; 0: not known."""
    since: float = 0.0
    """Seconds since the epoch."""
    user: str = ""
    quarantined: str = ""
    """Its holder is dead and what it left could not be cleared away: why; '' otherwise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What is remembered of a device."""

    given: int = 0
    last_user: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """The node's own rules; see the section ``gpu`` of its configuration."""

    strategy: Strategy = Strategy.LEAST_UTILIZED
    """For requests that leave the choice; that of a slot names its devices."""
    min_available_mb: int = 0
    """A device with less memory to be had is given to nobody."""
    max_jobs: int = 1
    """At most so many jobs on a device."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Situation:
    """All that a decision rests on."""

    snapshot: Snapshot
    held: Sequence[Held] = ()
    drained: Mapping[str, str] = field(default_factory=dict)
    """Devices that are not well: UUID to why."""
    ours: Mapping[str, AbstractSet[int]] = field(default_factory=dict)
    """By attempt: its processes."""
    remembered: Mapping[str, Usage] = field(default_factory=dict)

    def on(self, uuid: str) -> list[Held]:
        return [one for one in self.held if one.device == uuid]


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """The devices, or why there are none."""

    devices: tuple[str, ...] = ()
    why: str = ""
    never: bool = False
    """No waiting helps: the request itself cannot be met."""


def choose(
    request: Request,
    situation: Situation,
    rules: Rules,
    withheld: AbstractSet[str] = frozenset(),
) -> Choice:
    """Devices for ``request``, all or none. ``withheld``: held back for somebody older."""
    known = situation.snapshot.by_uuid()
    wanted = known.keys() if request.only is None else request.only
    gone = sorted(set(wanted) - known.keys())
    if gone and request.only is not None:
        return Choice(why=f"{', '.join(gone)} is not there (lost, hidden or reconfigured)")
    pool = [known[uuid] for uuid in known if uuid in wanted]
    able = [one for one in pool if not one.partitioned]
    if request.count > 1 and request.one_process:
        able = [one for one in able if not one.parent]
    if len(able) < request.count:
        return Choice(why=_too_few(request, pool, len(able), situation.snapshot), never=True)
    fitting, reasons = [], []
    for device in able:
        reason = (
            "held back for an older request"
            if device.uuid in withheld
            else obstacle(device, request, situation, rules)
        )
        if reason:
            reasons.append(f"{device.uuid}: {reason}")
        else:
            fitting.append(_candidate(device, situation))
    if request.count == len(fitting) == 1:
        return Choice(devices=(fitting[0].uuid,))
    chosen = pick(
        rules.strategy,
        fitting,
        request.count,
        user=request.user,
        distance=situation.snapshot.distance,
    )
    if not chosen:
        return Choice(why="; ".join(reasons))
    return Choice(devices=tuple(one.uuid for one in chosen))


def _too_few(request: Request, pool: Sequence[Device], able: int, snapshot: Snapshot) -> str:
    if request.count > 1 and any(one.parent for one in pool):
        return f"{request.count} devices for one process: it can use one MIG instance only"
    parted = [one.uuid for one in pool if one.partitioned]
    if parted and request.only is not None:
        return f"{', '.join(parted)} is split into MIG instances, and used by these only"
    why = f"{request.count} devices are asked for, and there are {able}"
    return f"{why} ({snapshot.reason})" if snapshot.reason else why


def obstacle(device: Device, request: Request, situation: Situation, rules: Rules) -> str:
    """Why ``request`` cannot have this device now; '' if it can."""
    if device.fault:
        return device.fault
    if device.uuid in situation.drained:
        return f"drained: {situation.drained[device.uuid]}"
    held = situation.on(device.uuid)
    for one in held:
        if one.quarantined:
            return f"quarantined: {one.quarantined}"
    if held and (request.exclusive or any(one.share >= 1.0 for one in held)):
        return f"held by {held[0].attempt or held[0].slot or f'process {held[0].pid}'}"
    if len(held) >= max(1, rules.max_jobs) and not request.exclusive:
        return f"has {len(held)} jobs already"
    taken = sum(one.share for one in held) + request.share
    if taken > 1.0 + _ROUNDING:
        return f"{sum(one.share for one in held):g} of it are taken"
    return _foreign(device, request, situation, bool(held)) or _memory(
        device, request, situation, rules
    )


def free_mb(device: Device, situation: Situation) -> int:
    """Memory that is neither promised, nor in use by anybody who has no lease; MiB."""
    promised = sum(one.memory_mb for one in situation.on(device.uuid))
    return max(0, device.total_mb - foreign_mb(device, situation) - promised)


def foreign_mb(device: Device, situation: Situation) -> int:
    """Memory in use by others than the holders of its leases; MiB.

    All that is used and not seen to be a holder's: a process in another container may not be
    listed, and its memory is.
    """
    if not device.tells_processes:
        return 0
    ours = _pids(device.uuid, situation)
    own = sum(one.memory_mb or 0 for one in device.processes if one.pid in ours)
    listed = sum(one.memory_mb or 0 for one in device.processes if one.pid not in ours)
    return max(listed, device.used_mb - own)


def strangers(device: Device, situation: Situation) -> list[int]:
    """Processes that compute on the device and are no lease holder's."""
    ours = _pids(device.uuid, situation)
    return [one.pid for one in device.processes if not one.graphics and one.pid not in ours]


def _foreign(device: Device, request: Request, situation: Situation, shared: bool) -> str:
    """Strangers, and leftovers of a job, on a device that shall be one job's alone."""
    if not request.exclusive or not device.tells_processes:
        return ""
    others = strangers(device, situation)
    if others:
        return f"in use by processes that are no job's: {', '.join(map(str, others))}"
    seen = sum(one.memory_mb or 0 for one in device.processes)
    known = all(one.memory_mb is not None for one in device.processes)
    left = device.used_mb - seen
    if known and left > UNEXPLAINED_MB:
        return f"{left} MiB of its memory are held by nobody to be seen"
    return ""


def _memory(device: Device, request: Request, situation: Situation, rules: Rules) -> str:
    free = free_mb(device, situation)
    need = max(request.memory_mb, rules.min_available_mb)
    if free < need:
        return f"{free} MiB are free of {device.total_mb}, and {need} are needed"
    return ""


def _pids(uuid: str, situation: Situation) -> set[int]:
    found: set[int] = set()
    for one in situation.on(uuid):
        found |= situation.ours.get(one.attempt, frozenset()) | {one.pid}
    return found


def _candidate(device: Device, situation: Situation) -> Candidate:
    usage = situation.remembered.get(device.uuid, Usage())
    return Candidate(
        device=device,
        jobs=len(situation.on(device.uuid)),
        free_mb=free_mb(device, situation),
        given=usage.given,
        last_user=usage.last_user,
    )
