"""GPUs, as the node's pool has them."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from worker.cli.checks.base import Check, Situation, missing, ok

if TYPE_CHECKING:
    from worker.devices.pool import DeviceState, PoolState

_NVIDIA: Final = "gpus (nvidia)"
_WRITTEN: Final = "gpus (gpu.devices)"
_WHY: Final = "jobs with required_device: cuda cannot run here"


def check_nvidia(situation: Situation) -> Check:
    """NVIDIA's: what the driver lists, and how the pool stands."""
    state = _pool(situation)
    written = {one.uuid for one in situation.config.gpu.devices}
    found = [one for one in state.devices if one.device.uuid not in written]
    if not found:
        return missing(
            _NVIDIA,
            "none",
            why=f"{_WHY}: {state.snapshot.reason}" if state.snapshot.reason else _WHY,
            todo="nothing, on a host without one; else install the NVIDIA driver, and in a "
            "container pass the GPUs in (docker run --gpus)",
        )
    seen = state.snapshot
    said = f"{_listed(found)}, driver {seen.driver}, CUDA {seen.cuda}; {_standing(found)}"
    wrong = _wrong(found)
    if wrong or seen.reason:
        return missing(
            _NVIDIA,
            said,
            why="; ".join(filter(None, [*wrong, seen.reason])),
            todo="see what the driver says (dmesg, nvidia-smi); a device that is well again is "
            "taken back by itself",
        )
    return ok(_NVIDIA, said)


def check_written(situation: Situation) -> Check | None:
    """Those that are written down; None where none is, and nothing hints at an AMD GPU."""
    written = situation.config.gpu.devices
    if not written:
        if not Path("/dev/kfd").exists():
            return None
        return missing(
            _WRITTEN,
            "/dev/kfd is there, and no device is written down",
            why="jobs with required_device: rocm cannot run here",
            todo="name the AMD GPUs in gpu.devices (rocm-smi --showuniqueid shows their UUIDs)",
        )
    found = [
        one
        for one in _pool(situation).devices
        if one.device.uuid in {entry.uuid for entry in written}
    ]
    absent = sorted({node for one in found for node in one.device.nodes if not Path(node).exists()})
    if absent:
        return missing(
            _WRITTEN,
            _listed(found),
            why=f"{', '.join(absent)} is not there",
            todo="see that the driver is loaded, or take the device out of gpu.devices",
        )
    return ok(_WRITTEN, f"{_listed(found)}; {_standing(found)}")


def _pool(situation: Situation) -> PoolState:
    from worker.devices.configured import inventory, rules
    from worker.devices.pool import DevicePool
    from worker.node.paths import NodePaths

    config = situation.config
    paths = NodePaths(state_dir=config.node.state_dir)
    with tempfile.TemporaryDirectory(prefix="cyxwiz-doctor-") as nowhere:
        # where no node has been yet nobody holds anything, and nothing is to be left
        leases = paths.leases if paths.leases.is_dir() else Path(nowhere)
        return DevicePool(
            leases=leases,
            attempts=paths.attempts,
            inventory=inventory(config),
            rules=rules(config),
        ).state()


def _listed(found: Sequence[DeviceState]) -> str:
    kinds = Counter((one.device.name, one.device.memory_mb) for one in found)
    return ", ".join(
        f"{count} x {name or 'unnamed'} ({memory} MiB)"
        for (name, memory), count in sorted(kinds.items())
    )


def _standing(found: Sequence[DeviceState]) -> str:
    from worker.devices.pool import why_unfit

    whole = [one for one in found if not one.device.partitioned]
    held = sum(bool(one.held) for one in whole)
    wrong = sum(bool(why_unfit(one)) for one in whole)
    free = sum(not one.held and not why_unfit(one) for one in whole)
    return f"{free} free, {held} held" + (f", {wrong} not well" if wrong else "")


def _wrong(found: Sequence[DeviceState]) -> list[str]:
    from worker.devices.pool import why_unfit

    return [f"{one.device.uuid}: {why_unfit(one)}" for one in found if why_unfit(one)]
