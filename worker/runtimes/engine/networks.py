"""Whether a network of the engine's keeps from jobs what none may reach: the host's metadata.

A cloud's metadata services give whoever asks the credentials of the host. So before a job joins a
network, the kernel is asked what it would do with a packet from there to one of these addresses:
it must refuse it. A try from inside would prove less: silence may be nobody now, and somebody
tomorrow.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any, Final

from worker.keeper.route_lookup import leads_somewhere
from worker.runtimes.engine.errors import EngineError, SandboxUnavailable
from worker.runtimes.engine.manager import ContainerManager

LINK_LOCAL: Final = ipaddress.ip_network("169.254.0.0/16")
METADATA: Final = ("169.254.169.254", "169.254.170.2", "169.254.1.1", "100.100.100.200")
"""Services of metadata, and one more of the link-local addresses."""
_BRIDGE_NAME: Final = "com.docker.network.bridge.name"


def prove_network(manager: ContainerManager, name: str) -> None:
    """Raises SandboxUnavailable: no job may join the network ``name``, or nobody can tell."""
    try:
        about = manager.network(name)
    except EngineError as error:
        raise SandboxUnavailable(f"network {name}: {error}") from error
    if why := _fault(about):
        raise SandboxUnavailable(f"network {name}: {why}")


def _fault(about: Mapping[str, Any]) -> str:
    """Why it is not for jobs; '' if it is."""
    if about.get("Driver") != "bridge":
        return f"its driver is {about.get('Driver')}, and only of a bridge it is known what it does"
    if about.get("EnableIPv6"):
        return "it has IPv6, of which nothing is proven: make it without"
    subnets = [one for one in (about.get("IPAM") or {}).get("Config") or () if one.get("Subnet")]
    if not subnets:
        return "the engine names no subnet of it"
    named = (about.get("Options") or {}).get(_BRIDGE_NAME)
    bridge = str(named or f"br-{str(about.get('Id'))[:12]}")
    for subnet in subnets:
        try:
            net = ipaddress.ip_network(str(subnet["Subnet"]))
            source = str(net[min(2, net.num_addresses - 1)])
            for address in METADATA:
                if net.overlaps(LINK_LOCAL) or ipaddress.ip_address(address) in net:
                    return f"its subnet {net} has addresses of metadata services"
                if way := leads_somewhere(address, source, bridge):
                    return (
                        f"{address} is not blocked: a packet of a job would go to {way}, where it "
                        "could ask for the host's credentials; ip rule add iif "
                        f"{bridge} to {_range(address)} prohibit"
                    )
        except (OSError, ValueError, TypeError) as error:
            return f"the kernel cannot be asked about {bridge}: {error}"
    return ""


def _range(address: str) -> str:
    return str(LINK_LOCAL) if ipaddress.ip_address(address) in LINK_LOCAL else f"{address}/32"
