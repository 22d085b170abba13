"""What the state directory says of a slot's worker: who it is, its log, whether it is ready."""

from __future__ import annotations

import contextlib
import json
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from worker.node.paths import NodePaths
from worker.node.processes import ProcessName

_VERSION: Final = 1
_LOG_BYTES: Final = 10 * 1024 * 1024
_TAIL_BYTES: Final = 4096
_TAIL_LINES: Final = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class SlotRecord:
    """Which process serves a slot, and as what it was started."""

    slot: str
    pid: int
    start: int
    """Clock ticks since boot."""
    boot_id: str
    digest: str
    """Of the configuration and the program that it was started with."""
    started: float
    """Seconds since the epoch."""

    @property
    def process(self) -> ProcessName:
        return ProcessName(pid=self.pid, start=self.start)


@dataclass(frozen=True, kw_only=True, slots=True)
class Unseen:
    """No container saw the slot's devices."""

    at: float
    """When that was found last, seconds since the epoch."""
    times: int
    """In a row."""


def read(paths: NodePaths, slot: str) -> SlotRecord | None:
    """The record of ``slot``; None if there is none that can be understood."""
    try:
        content = json.loads(paths.slot_record(slot).read_bytes())
        if content.pop("v") != _VERSION:
            return None
        return SlotRecord(**content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write(paths: NodePaths, record: SlotRecord) -> None:
    """Write the record, whole or not at all."""
    path = paths.slot_record(record.slot)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps({"v": _VERSION, **asdict(record)}))
    fresh.replace(path)


def forget(paths: NodePaths, slot: str) -> None:
    """Nobody serves ``slot``. Safe to call twice."""
    paths.slot_ready(slot).unlink(missing_ok=True)
    paths.slot_queues(slot).unlink(missing_ok=True)
    paths.slot_record(slot).unlink(missing_ok=True)


def recorded(paths: NodePaths) -> list[str]:
    """The slots that have a record, those among them that are no longer configured too."""
    return sorted(path.stem for path in paths.slots.glob("*.json"))


def started(paths: NodePaths, slot: str) -> float:
    """When the worker of ``slot`` was started, seconds since the epoch; 0 if that is not known."""
    record = read(paths, slot)
    return record.started if record is not None else 0.0


def ready(paths: NodePaths, slot: str, pid: int) -> bool:
    """Whether the worker with ``pid`` has said that it takes jobs."""
    try:
        return paths.slot_ready(slot).read_text().strip() == str(pid)
    except OSError:
        return False


def write_queues(paths: NodePaths, slot: str, queues: Sequence[str]) -> None:
    """Say which queues the slot's worker reads, whenever they change: the agent tells the cluster.

    Called by the worker; whole or not at all.
    """
    path = paths.slot_queues(slot)
    fresh = path.with_suffix(".queues-new")
    fresh.write_text(json.dumps(list(queues)))
    fresh.replace(path)


def queues(paths: NodePaths, slot: str) -> tuple[str, ...]:
    """The queues that the slot's worker reads; none if it has not said so."""
    try:
        found = json.loads(paths.slot_queues(slot).read_bytes())
        return tuple(str(one) for one in found)
    except (OSError, ValueError, TypeError):
        return ()


def open_log(path: Path, most_bytes: int = _LOG_BYTES) -> int:
    """Open a worker's log for appending; a big one is put aside first."""
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > most_bytes:
            path.replace(path.with_name(path.name + ".1"))
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def last_lines(path: Path) -> list[str]:
    """The end of a log."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
            text = log.read().decode(errors="replace")
    except OSError:
        return []
    return list(deque(text.splitlines(), maxlen=_TAIL_LINES))


def mark_leaving(paths: NodePaths, slot: str, away: float) -> None:
    """The slot's worker shall leave its job running when it is told to end, for ``away`` s."""
    path = paths.slot_leaving(slot)
    fresh = path.with_suffix(".leaving-new")
    fresh.write_text(f"{away:g}\n")
    fresh.replace(path)


def unmark_leaving(paths: NodePaths, slot: str) -> None:
    """Safe to call twice."""
    paths.slot_leaving(slot).unlink(missing_ok=True)


def leaving(paths: NodePaths, slot: str) -> float | None:
    """For how many seconds the slot's job shall be left running; None: it shall not."""
    try:
        return float(paths.slot_leaving(slot).read_text())
    except (OSError, ValueError):
        return None


def mark_unseen(paths: NodePaths, slot: str, now: float) -> None:
    """No container saw the slot's devices, once more. ``now``: seconds since the epoch."""
    before = unseen(paths, slot)
    mark = Unseen(at=now, times=1 if before is None else before.times + 1)
    fresh = paths.slot_unseen(slot).with_suffix(".unseen-new")
    fresh.write_text(json.dumps(asdict(mark)))
    fresh.replace(paths.slot_unseen(slot))


def unmark_unseen(paths: NodePaths, slot: str) -> None:
    """Safe to call twice."""
    paths.slot_unseen(slot).unlink(missing_ok=True)


def unseen(paths: NodePaths, slot: str) -> Unseen | None:
    """None: they were seen, or nobody has looked."""
    try:
        content = json.loads(paths.slot_unseen(slot).read_bytes())
        return Unseen(at=float(content["at"]), times=int(content["times"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
