"""Networks of the tests' engine, with and without a way to where no job may go."""

from __future__ import annotations

import ipaddress
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import docker

_FORBIDDEN = ("169.254.0.0/16", "100.100.100.200/32")


@dataclass(frozen=True, kw_only=True)
class Network:
    """A bridge of the engine's; what is changed of the host is for traffic from it alone."""

    name: str
    bridge: str
    gateway: str
    """The host, as seen from it."""
    inside: str
    """An address of a container in it."""

    @contextmanager
    def blocked(self, most: int = len(_FORBIDDEN)) -> Iterator[None]:
        """No packet goes from it to metadata. ``most``: of how many ranges."""
        rules = [["iif", self.bridge, "to", one, "prohibit"] for one in _FORBIDDEN[:most]]
        for rule in rules:
            subprocess.run(["ip", "rule", "add", *rule], check=True)
        try:
            yield
        finally:
            for rule in rules:
                subprocess.run(["ip", "rule", "del", *rule], check=True)

    @contextmanager
    def greeting(self) -> Iterator[int]:
        """A server of the host's that its containers reach: the port at the gateway."""
        with socket.create_server((self.gateway, 0)) as server:

            def serve() -> None:
                while True:
                    try:
                        made, _ = server.accept()
                    except OSError:
                        return
                    with made:
                        made.sendall(b"hello")

            threading.Thread(target=serve, daemon=True).start()
            yield int(server.getsockname()[1])
            server.shutdown(socket.SHUT_RDWR)


@contextmanager
def network(
    raw: docker.APIClient, *, subnet: str | None = None, enable_ipv6: bool = False
) -> Iterator[Network]:
    """One in the engine that ``raw`` talks to, of this process's own."""
    name = bridge = f"cyxt{os.getpid()}"
    pools = [{"Subnet": subnet}] if subnet else []
    pools += [{"Subnet": "fd00:c7c1::/64"}] if enable_ipv6 else []
    made = raw.create_network(
        name,
        driver="bridge",
        enable_ipv6=enable_ipv6,
        ipam={"Driver": "default", "Config": pools},
        options={"com.docker.network.bridge.name": bridge},
    )["Id"]
    try:
        about = raw.inspect_network(made)["IPAM"]["Config"][0]
        net = ipaddress.ip_network(about["Subnet"])
        gateway = str(about.get("Gateway") or net[1]).partition("/")[0]
        yield Network(name=name, bridge=bridge, gateway=gateway, inside=str(net[9]))
    finally:
        for one in raw.inspect_network(made)["Containers"]:
            raw.disconnect_container_from_network(one, made, force=True)
        raw.remove_network(made)
