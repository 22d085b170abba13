"""What a job's environment says of devices: those of its grant, and no others. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.choices import Device as Kind
from worker.devices.inventory import Device

GRANTED = "CYXWIZ_DEVICES"
"""The UUIDs of the grant, with commas: what a job can hold against what it sees."""

NODES = "CYXWIZ_DEVICE_NODES"
"""The device nodes of a ROCm grant, with commas."""

SHARE = "CYXWIZ_GPU_MEMORY_MB"
"""How much memory of each device the job may use, MiB; not set: all of it."""

NO_GPUS = {
    "CUDA_VISIBLE_DEVICES": "",
    "HIP_VISIBLE_DEVICES": "",
    "ROCR_VISIBLE_DEVICES": "",
    "NVIDIA_VISIBLE_DEVICES": "void",
    GRANTED: "",
}


def environment(devices: Sequence[Device], memory_mb: int = 0) -> dict[str, str]:
    """For a job with exactly these devices, all of one kind. ``memory_mb``: see `SHARE`."""
    if not devices:
        return dict(NO_GPUS)
    share = {SHARE: str(memory_mb)} if memory_mb else {}
    return {**_names(devices), **share}


def _names(devices: Sequence[Device]) -> dict[str, str]:
    uuids = ",".join(one.uuid for one in devices)
    if devices[0].kind is Kind.ROCM:
        # HIP obeys CUDA_VISIBLE_DEVICES too: an empty one would hide everything
        return {
            "ROCR_VISIBLE_DEVICES": uuids,
            "NVIDIA_VISIBLE_DEVICES": "void",
            GRANTED: uuids,
            NODES: ",".join(sorted({node for one in devices for node in one.nodes})),
        }
    return {
        "CUDA_VISIBLE_DEVICES": uuids,
        "HIP_VISIBLE_DEVICES": "",
        "ROCR_VISIBLE_DEVICES": "",
        "NVIDIA_VISIBLE_DEVICES": uuids,
        GRANTED: uuids,
    }
