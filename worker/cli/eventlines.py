"""An event as a line for people. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, assert_never

from tasks import events
from tasks.events import Envelope, Event
from worker.cli.text import duration, number, safe

_LEVELS = {0: "no sandbox", 1: "basic sandbox", 2: "full sandbox"}


def lines(envelope: Envelope) -> Iterator[str]:
    """What is said about one event: a line, or one for each line that the job printed."""
    event = envelope.event
    if isinstance(event, events.Log):
        if event.dropped:
            yield f"({event.dropped} lines were dropped)"
        for line in event.lines:
            yield f"| {safe(line)}"
        return
    yield safe(_line(event))


def progress_text(event: events.Progress) -> str:
    """``epoch 3/20  loss 0.41  accuracy 0.87``."""
    parts = [f"epoch {event.epoch}/{event.total_epochs}" if event.total_epochs else "progress"]
    parts += [f"{name} {number(value)}" for name, value in metrics_of(event).items()]
    return "  ".join(parts)


def metrics_of(event: events.Progress) -> dict[str, float]:
    """Loss, accuracy, then the others."""
    named = {"loss": event.loss, "accuracy": event.accuracy}
    found = {name: value for name, value in named.items() if value is not None}
    return {**found, **event.metrics}


def _line(event: Event) -> str:  # noqa: C901 - one case for each type of event
    match event:
        case events.Queued():
            missing = f"; nobody can serve it now: {event.missing}" if event.missing else ""
            return f"queued in {event.queue}{missing}"
        case events.Admitted():
            level = _LEVELS.get(event.sandbox_level, f"sandbox level {event.sandbox_level}")
            warning = f"; warning: {event.warning}" if event.warning else ""
            return f"admitted: {event.mode}, {level}" + _because(event.why) + warning
        case events.Pulling():
            return f"pulling {event.image} {event.detail}".rstrip()
        case events.Fetching():
            of = f" of {event.total / 1e6:.1f}" if event.total else ""
            return f"fetching {event.source}: {event.done / 1e6:.1f}{of} MB"
        case events.Started():
            where = ", ".join(filter(None, (event.mode, event.image, " ".join(event.devices))))
            return f"started: {where}"
        case events.Progress():
            dropped = f"  ({event.coalesced} left out)" if event.coalesced else ""
            return progress_text(event) + dropped
        case events.Log():
            return "\n".join(event.lines)
        case events.Checkpoint():
            return f"checkpoint of epoch {event.epoch}: {event.path}"
        case events.Usage():
            return _usage(event)
        case events.Paused():
            return "paused" + _because(event.why)
        case events.Resumed():
            return "resumed" + _because(event.why)
        case events.Retrying():
            after = f", again in {duration(event.delay_seconds)}" if event.delay_seconds else ""
            return f"retrying: {event.reason}: {event.message}{after}"
        case events.Succeeded():
            return "succeeded" + _outcome(event.result)
        case events.Failed():
            return f"failed: {event.reason}: {event.message}"
        case events.Cancelled():
            return f"cancelled: {event.message}"
        case events.Rejected():
            return f"rejected: {event.reason}: {event.message}"
        case events.Truncated():
            return f"(events {event.from_seq} to {event.to_seq} are not kept any more)"
        case events.Unknown():
            return f"{event.said_type} {dict(event.fields)}"
        case _:
            assert_never(event)


def _usage(event: events.Usage) -> str:
    gpus = ", ".join(
        f"{one.get('peak_memory_mb', 0)} MiB of {uuid}" for uuid, one in event.gpus.items()
    )
    if event.so_far:
        return f"uses {gpus}"
    of_gpus = f", {gpus}" if gpus else ""
    return (
        f"used {duration(event.cpu_seconds)} of CPU, {event.max_rss_mb:.0f} MiB{of_gpus}, "
        f"in {duration(event.wall_seconds)}"
    )


def _because(why: str) -> str:
    return f" ({why})" if why else ""


def _outcome(result: Mapping[str, Any]) -> str:
    metrics = result.get("metrics") or {}
    said = "  ".join(
        f"{name} {number(value)}" for name, value in metrics.items() if isinstance(value, float)
    )
    return f": {said}" if said else ""
