"""``cyxwiz devices``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from worker.cli.exits import guarded
from worker.cli.hub import config_option, json_option
from worker.cli.text import duration, note, safe, say, say_json, table

if TYPE_CHECKING:
    from worker.devices.pool import DeviceState

_HEAD: Final = ("DEVICE", "NAME", "USED MIB", "BUSY", "TEMP", "JOBS", "SERVED", "STATE")


@click.command()
@config_option
@json_option
@guarded
def devices(config_path: Path | None, as_json: bool) -> None:
    """List this host's GPUs, who holds them, and what they were used for.

    Asks the driver and the node's own files: neither a Redis nor a running node is needed.
    """
    from worker.config import load
    from worker.devices.configured import inventory, rules
    from worker.devices.pool import DevicePool
    from worker.node.paths import NodePaths

    config = load(config_path, os.environ)
    paths = NodePaths(state_dir=config.node.state_dir)
    state = DevicePool(
        leases=paths.leases,
        attempts=paths.attempts,
        inventory=inventory(config),
        rules=rules(config),
    ).state()
    seen = state.snapshot
    if as_json:
        say_json(
            {
                "devices": [as_object(one) for one in state.devices],
                "reason": seen.reason,
                "driver": seen.driver,
                "cuda": seen.cuda,
            }
        )
        return
    if state.devices:
        say(table([_HEAD, *(_row(one) for one in state.devices)]))
    else:
        say("no devices")
    if seen.reason:
        note(safe(seen.reason))


def as_object(state: DeviceState) -> dict[str, Any]:
    """For programs."""
    from dataclasses import asdict

    return {
        **asdict(state.device),
        "free_mb": state.free_mb,
        "state": state_of(state),
        "held": [asdict(one) for one in state.held],
        "totals": asdict(state.totals),
    }


def state_of(state: DeviceState) -> str:
    """``free``, ``held by …``, or why it is given to nobody."""
    from worker.devices.pool import why_unfit

    wrong = why_unfit(state)
    if wrong:
        return wrong
    if state.device.partitioned:
        return "split into MIG instances"
    holders = [one.attempt or one.slot or f"process {one.pid}" for one in state.held]
    return f"held by {', '.join(holders)}" if holders else "free"


def _row(state: DeviceState) -> tuple[str, ...]:
    device = state.device
    return (
        device.uuid,
        safe(f"{device.name} {device.profile}".strip())[:40],
        f"{device.used_mb}/{device.memory_mb}" if device.tells_processes else "-",
        "-" if device.utilisation is None else f"{device.utilisation} %",
        "-" if device.temperature_c is None else f"{device.temperature_c} C",
        str(len(state.held)),
        f"{state.totals.jobs} in {duration(state.totals.seconds)}",
        safe(state_of(state)),
    )
