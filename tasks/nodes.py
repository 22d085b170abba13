"""Nodes as the cluster sees them: what each says of itself, and what Redis knows of it.

A node lives as long as its entry in Redis, which goes by Redis's clock: whatever the clocks of
nodes and readers say changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from tasks.cordons import Cordon
from tasks.scripts import Scripts

GONE_AFTER_S: Final = 300
"""A node that is silent for so long is not expected back: its jobs run elsewhere by then."""
RECORD_VERSION: Final = 1


class NodeStatus(StrEnum):
    """Whether anything is heard of a node."""

    ALIVE = "alive"
    LOST = "lost"
    """It went silent: its jobs are given to others as soon as their leases have run out."""
    GONE = "gone"
    """It has been silent for long. Listed for a day; one that was stopped in order is not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SlotView:
    """A slot of a node."""

    name: str
    kind: str = ""
    state: str = ""
    """As the node says: ready, …; '' for a node that says nothing."""
    job_id: str = ""
    """The job that has it; '' if none does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeView:
    """A node. What it says of itself is empty for one that is not alive."""

    name: str
    status: NodeStatus
    seen: float
    """When it was heard of last; seconds since the epoch by Redis's clock."""
    silent_seconds: float
    state: str = ""
    """starting, ready, draining or cordoned."""
    cordon: Cordon | None = None
    """It shall take no new job."""
    pool: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    slots: tuple[SlotView, ...] = ()
    sandbox_level: int = 0
    """0 none, 1 basic, 2 full."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """All that it says, whatever its version."""
    problem: str = ""
    """What is wrong with what it says."""

    @property
    def busy(self) -> int:
        """How many slots have a job."""
        return sum(1 for slot in self.slots if slot.job_id)


def read_nodes(scripts: Scripts, names: Sequence[str]) -> list[NodeView]:
    """The nodes of these names that are known, in one round trip. Raises redis.RedisError."""
    if not names:
        return []
    # one command in the place of two for each node: most of what a page costs is client's work
    (seconds, micros), *answers = scripts.call("nodes", *names)
    now = int(seconds) + int(micros) / 1e6
    found = []
    for name, (seen, cordon, record, flat) in zip(names, answers, strict=True):
        if seen is not None or record is not None:
            holds = dict(zip(flat[::2], flat[1::2], strict=True))
            seen_ms = None if seen is None else float(seen)
            found.append(_view(name, now, seen_ms, record, holds, Cordon.parse(cordon or "")))
    return found


def _view(
    name: str,
    now: float,
    seen_ms: float | None,
    text: str | None,
    holds: Mapping[str, str],
    cordon: Cordon | None,
) -> NodeView:
    seen = (seen_ms or 0.0) / 1000
    silent = max(0.0, now - seen)
    if text is None:
        return NodeView(
            name=name,
            status=NodeStatus.GONE if silent > GONE_AFTER_S else NodeStatus.LOST,
            seen=seen,
            silent_seconds=silent,
            cordon=cordon,
            slots=_slots((), holds),
        )
    record, problem = parse_record(text)
    labels = record.get("labels")
    return NodeView(
        name=name,
        status=NodeStatus.ALIVE,
        seen=seen,
        silent_seconds=silent,
        state=str(record.get("state") or ""),
        cordon=cordon,
        pool=str(record.get("pool") or ""),
        labels=labels if isinstance(labels, dict) else {},
        slots=_slots(record.get("slots"), holds),
        sandbox_level=level if isinstance(level := record.get("sandbox_level"), int) else 0,
        record=record,
        problem=problem,
    )


def parse_record(text: str) -> tuple[dict[str, Any], str]:
    """What a node says, as far as it can be understood; and what is wrong with it."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        return {}, "what it says of itself is no JSON object"
    version = found.get("v")
    if version != RECORD_VERSION:
        return found, f"it speaks version {version!r}, and this reads version {RECORD_VERSION}"
    return found, ""


def _slots(said: Any, holds: Mapping[str, str]) -> tuple[SlotView, ...]:
    """The slots that a node tells of, and those that Redis knows to be held."""
    found = {}
    for one in said if isinstance(said, list | tuple) else ():
        if isinstance(one, dict) and isinstance(one.get("name"), str):
            found[one["name"]] = SlotView(
                name=one["name"],
                kind=str(one.get("kind") or ""),
                state=str(one.get("state") or ""),
                job_id=holds.get(one["name"], ""),
            )
    for name in sorted(holds):
        found.setdefault(name, SlotView(name=name, job_id=holds[name]))
    return tuple(found.values())
