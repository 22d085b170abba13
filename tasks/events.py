"""What happens to a job, as events: the union, the envelope and the codec.

An event is written as a JSON object with its ``type``; the scripts in `tasks/lua` put the
envelope around it. Readers take types that they do not know as `Unknown`: a newer node may send
more than an older producer has heard of.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar, Final

VERSION: Final = 1
"""Of the envelope."""
SEAL: Final = "seal"
"""Field beside an event's own: see `tasks.seals`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Queued:
    """The job waits in ``queue``."""

    type: ClassVar[str] = "queued"
    queue: str = ""
    missing: str = ""
    """What no live node had when it was submitted; '' where one could serve it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Admitted:
    """A node will run it: how, and why so."""

    type: ClassVar[str] = "admitted"
    mode: str = ""
    sandbox_level: int = 0
    """0 none, 1 basic, 2 full."""
    why: str = ""
    warning: str = ""
    """What the job goes without, where it runs natively for want of a container engine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pulling:
    """An image is fetched."""

    type: ClassVar[str] = "pulling"
    image: str = ""
    detail: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetching:
    """Data or code are fetched. Said now and then; not for ever in the history."""

    type: ClassVar[str] = "fetching"
    source: str = ""
    """The URL, without password and query."""
    done: int = 0
    """Bytes."""
    total: int = 0
    """Bytes; 0 where the source does not say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """The attempt runs."""

    type: ClassVar[str] = "started"
    mode: str = ""
    devices: tuple[str, ...] = ()
    image: str = ""
    """As the job or the node's rules name it; '' for a native attempt."""
    image_id: str = ""
    """The engine's."""
    digest: str = ""
    """``REPOSITORY@sha256:…``; '' for an image that no registry has."""
    note: str = ""
    """If it is another image than the attempt before ran: why."""
    sandbox: Mapping[str, Any] = field(default_factory=dict)
    """What the node has seen of the attempt's sandbox; {} for a native one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """The job reported progress: a claim of the job's."""

    type: ClassVar[str] = "progress"
    epoch: int = 0
    total_epochs: int = 0
    progress: float = 0.0
    """epoch / total_epochs, 0 to 1."""
    loss: float | None = None
    accuracy: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    """All further finite numbers of the line."""
    line: str = ""
    coalesced: int = 0
    """How many progress events before this one were dropped in its favour."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Log:
    """Lines that the job printed."""

    type: ClassVar[str] = "log"
    stream: str = "stdout"
    lines: tuple[str, ...] = ()
    dropped: int = 0
    """How many lines before these were dropped."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """The job reported that it saved a checkpoint: a claim of the job's."""

    type: ClassVar[str] = "checkpoint"
    epoch: int = 0
    path: str = ""
    sha256: str = ""
    coalesced: int = 0
    """How many checkpoint events before this one were dropped in its favour."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What the attempt used."""

    type: ClassVar[str] = "usage"
    cpu_seconds: float = 0.0
    max_rss_mb: float = 0.0
    wall_seconds: float = 0.0
    oom: bool = False
    """The kernel killed something in it for want of memory, whatever became of the rest."""
    gpu_seconds: float = 0.0
    """Seconds times devices."""
    gpus: Mapping[str, Any] = field(default_factory=dict)
    """By UUID: ``peak_memory_mb``, and ``mean_utilisation`` (percent) where the driver tells."""
    so_far: bool = False
    """The attempt goes on. Said now and then; not for ever in the history."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Paused:
    """The attempt stands still."""

    type: ClassVar[str] = "paused"
    why: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resumed:
    """The attempt goes on."""

    type: ClassVar[str] = "resumed"
    why: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Retrying:
    """The attempt is over and the job is queued again: another attempt, or a hand-back."""

    type: ClassVar[str] = "retrying"
    reason: str = ""
    message: str = ""
    delay_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Succeeded:
    """The end: ``result`` is what ``AsyncResult.get()`` returns."""

    type: ClassVar[str] = "succeeded"
    result: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """The end: ``reason`` is a `tasks.state.FailureReason`."""

    type: ClassVar[str] = "failed"
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cancelled:
    """The end: somebody cancelled it."""

    type: ClassVar[str] = "cancelled"
    message: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejected:
    """The end: policy forbids it."""

    type: ClassVar[str] = "rejected"
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Truncated:
    """Made by the reader: events that the capped history no longer has, or that Redis has lost
    after they were told: what follows then has some of these numbers a second time."""

    type: ClassVar[str] = "truncated"
    from_seq: int = 0
    to_seq: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Unknown:
    """An event of a type that this version does not know."""

    type: ClassVar[str] = "unknown"
    said_type: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)


Event = (
    Queued
    | Admitted
    | Pulling
    | Fetching
    | Started
    | Progress
    | Log
    | Checkpoint
    | Usage
    | Paused
    | Resumed
    | Retrying
    | Succeeded
    | Failed
    | Cancelled
    | Rejected
    | Truncated
    | Unknown
)

_KINDS: Final[dict[str, Any]] = {
    kind.type: kind
    for kind in (
        Queued,
        Admitted,
        Pulling,
        Fetching,
        Started,
        Progress,
        Log,
        Checkpoint,
        Usage,
        Paused,
        Resumed,
        Retrying,
        Succeeded,
        Failed,
        Cancelled,
        Rejected,
        Truncated,
    )
}
_TUPLES: Final = frozenset({"devices", "lines"})
_TAIL: Final = (Progress, Log, Checkpoint, Fetching)
_ENDS: Final = (Succeeded, Failed, Cancelled, Rejected)


@dataclass(frozen=True, kw_only=True, slots=True)
class Envelope:
    """An event with where and when it happened."""

    v: int
    job_id: str
    attempt: int
    """0 before the first."""
    seq: int
    """Per job, from 1, gap-free."""
    ts: float
    """Seconds since the epoch, by Redis's clock."""
    node: str
    slot: str
    event: Event
    signed_by: str = ""
    """The node that has signed it, for whoever follows with a trust root; '' for what none says."""

    @property
    def type(self) -> str:
        """The event's type, as it was sent."""
        return self.event.said_type if isinstance(self.event, Unknown) else self.event.type


def is_state(event: Event) -> bool:
    """Whether the history keeps it; what may come without end is a capped tail."""
    return not isinstance(event, _TAIL) and not (isinstance(event, Usage) and event.so_far)


def is_end(event: Event) -> bool:
    """Whether nothing comes after it."""
    return isinstance(event, _ENDS)


def encode(event: Event) -> str:
    """The event's JSON object: ASCII, compact, what is empty left out."""
    body: dict[str, Any] = {"type": event.type}
    for one in fields(event):
        value = getattr(event, one.name)
        empty = value is None or value == "" or value == () or value == {}
        if not empty or (one.default is not MISSING and one.default):
            body[one.name] = dict(value) if isinstance(value, Mapping) else value
    try:
        return json.dumps(body, separators=(",", ":"), allow_nan=False)
    except ValueError:
        return json.dumps(_finite(body), separators=(",", ":"), allow_nan=False)


def to_json(envelope: Envelope) -> str:
    """The envelope as it travels."""
    head = {
        "v": envelope.v,
        "job_id": envelope.job_id,
        "attempt": envelope.attempt,
        "seq": envelope.seq,
        "ts": envelope.ts,
        "node": envelope.node,
        "slot": envelope.slot,
    }
    body = (
        {"type": envelope.event.said_type, **envelope.event.fields}
        if isinstance(envelope.event, Unknown)
        else json.loads(encode(envelope.event))
    )
    proof = {"signed_by": envelope.signed_by} if envelope.signed_by else {}
    return json.dumps({**head, **body, **proof}, separators=(",", ":"))


def decode(text: str) -> Envelope:
    """Read an envelope. Raises ValueError: no JSON object, another version, fields missing."""
    return unpacked(text)[0]


def unpacked(text: str) -> tuple[Envelope, dict[str, Any]]:
    """`decode`, and the event's own JSON object, as it was sent."""
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("an event is not nested so deep") from None
    if not isinstance(found, dict):
        raise ValueError("an event is a JSON object")
    if found.get("v") != VERSION:
        raise ValueError(f"events of version {found.get('v')!r}; this reads version {VERSION}")
    try:
        head: dict[str, Any] = {
            "v": VERSION,
            "job_id": str(found.pop("job_id")),
            "attempt": int(found.pop("attempt")),
            "seq": int(found.pop("seq")),
            "ts": float(found.pop("ts")),
            "node": str(found.pop("node")),
            "slot": str(found.pop("slot")),
        }
        found.pop("v")
        body = {"type": found.pop("type"), **found}
        said = str(body["type"])
        found.pop(SEAL, None)
        return Envelope(event=_event(said, found), **head), body
    except (KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"an event without {error}") from None


def _event(said: str, body: dict[str, Any]) -> Event:
    kind = _KINDS.get(said)
    if kind is None:
        return Unknown(said_type=said, fields=body)
    known = {one.name for one in fields(kind)}
    event: Event = kind(
        **{
            name: tuple(value) if name in _TUPLES and isinstance(value, list) else value
            for name, value in body.items()
            if name in known
        }
    )
    return event


def _finite(value: Any) -> Any:
    """NaN and infinities as None: JSON has no word for them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
