"""How a container engine is asked for GPUs, and what it says where it cannot give them.

``/info`` is a hint at best: an engine whose hook is installed shows nothing of it, and one with the
``nvidia`` runtime alone takes no request. So each way is tried, with a container that must see the
devices; see `worker.device_probe`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final

VENDOR: Final = "nvidia.com/gpu"
RUNTIME: Final = "nvidia"

_REFUSALS: Final = (
    "could not select device driver",
    "CDI device injection failed",
    "unresolvable CDI device",
    "unknown or invalid runtime name",
    "Unknown runtime specified",
    "nvidia-container-cli",
    "unknown device",
)


class Via(StrEnum):
    """A way to ask."""

    REQUEST = "request"
    """A device request: NVIDIA's hook below the engine."""
    CDI = "cdi"
    """The engine's own injection of what a CDI specification says."""
    RUNTIME = "runtime"
    """The OCI runtime ``nvidia``, which reads the devices from the environment."""


def ways(info: Mapping[str, Any], devices: Iterable[str]) -> tuple[Via, ...]:
    """What is worth trying with the engine of which ``/info`` says this, the best first."""
    found = []
    known = {str(one.get("ID")) for one in info.get("DiscoveredDevices") or ()}
    if {cdi_name(uuid) for uuid in devices} <= known:
        found.append(Via.CDI)
    found.append(Via.REQUEST)
    if RUNTIME in (info.get("Runtimes") or {}):
        found.append(Via.RUNTIME)
    return tuple(found)


def cdi_name(uuid: str) -> str:
    """By its UUID, as ``nvidia-ctk cdi generate --device-name-strategy=uuid`` names a device: an
    index moves."""
    return f"{VENDOR}={uuid}"


def device_requests(devices: Sequence[str], via: str) -> list[dict[str, Any]]:
    """The engine's ``DeviceRequests``. Never a count: that always means the first ones."""
    if not devices or via == Via.RUNTIME:
        return []
    if via == Via.CDI:
        return [{"Driver": "cdi", "DeviceIDs": [cdi_name(one) for one in devices]}]
    return [
        {
            "Driver": "",
            "Count": 0,
            "DeviceIDs": list(devices),
            "Capabilities": [["gpu", "compute", "utility"]],
            "Options": {},
        }
    ]


def refused(text: str) -> bool:
    """Whether an engine's error says that it cannot give devices."""
    return any(one in text for one in _REFUSALS)
