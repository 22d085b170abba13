"""What a program with a network would reach from within a container, and a program that tries."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import docker

from tests.support import engine

_TRIES = """
import json, socket
def dial(family, kind, *address):
    with socket.socket(getattr(socket, family), getattr(socket, kind)) as made:
        made.settimeout(5)
        made.connect(address[0] if family == 'AF_UNIX' else address)
        if kind == 'SOCK_DGRAM':
            made.send(b'hello')
            made.recv(5)
for name, where in json.loads(%r).items():
    try:
        dial(*where) if len(where) > 2 else socket.socket(
            getattr(socket, where[0]), socket.SOCK_RAW, where[1])
    except OSError as error:
        print('refused', name, type(error).__name__, flush=True)
    else:
        print('REACHED', name, flush=True)
"""

RAW = {"raw": ("AF_INET", 1), "packet": ("AF_PACKET", 3)}
"""Sockets that need no listener, only a right."""


@contextmanager
def listeners(*addresses: str) -> Iterator[dict[str, tuple[Any, ...]]]:
    """Servers on the host: how each is reached, by its name.

    On each of ``addresses`` by TCP and UDP, on the loopback, and at an abstract Unix socket, which
    belongs to the host's network as they do.
    """
    found: dict[str, tuple[Any, ...]] = {}
    with ExitStack() as stack:

        def serve(name: str, family: str, kind: str, address: Any) -> None:
            made = socket.socket(getattr(socket, family), getattr(socket, kind))
            stack.callback(made.close)
            made.bind(address)
            if kind == "SOCK_STREAM":
                made.listen()
            stack.callback(_interrupt, made)
            threading.Thread(target=_serve, args=(made, kind), daemon=True).start()
            where = made.getsockname()
            parts = where[:2] if family != "AF_UNIX" else (where.decode(),)
            found[name] = (family, kind, *parts)

        for address in ("127.0.0.1", *addresses):
            serve(f"tcp:{address}", "AF_INET", "SOCK_STREAM", (address, 0))
            serve(f"udp:{address}", "AF_INET", "SOCK_DGRAM", (address, 0))
        with contextlib.suppress(OSError):  # this host may have no version 6
            serve("tcp:::1", "AF_INET6", "SOCK_STREAM", ("::1", 0))
        serve("abstract", "AF_UNIX", "SOCK_STREAM", f"\0cyx-test-{os.getpid()}")
        yield found


def tries(where: dict[str, tuple[Any, ...]]) -> str:
    """Python source that says of each, by its name, whether it is reached."""
    return _TRIES % json.dumps(where)


def with_the_hosts_network(client: docker.APIClient, source: str, *places: Path) -> str:
    """What Python source prints in a container that has the host's network, and ``places`` of the
    host's files."""
    made = client.create_container(
        engine.BASE,
        [engine.PYTHON, "-S", "-u", "-c", source],
        host_config=client.create_host_config(
            network_mode="host",
            binds=[f"{place}:{place}" for place in places],
            log_config={"type": "json-file", "config": {}},
        ),
    )["Id"]
    try:
        client.start(made)
        client.wait(made, timeout=60)
        return str(client.logs(made).decode())
    finally:
        client.remove_container(made, force=True)


def _serve(server: socket.socket, kind: str) -> None:
    with contextlib.suppress(OSError):
        while True:
            if kind != "SOCK_DGRAM":
                server.accept()[0].close()
                continue
            said, whence = server.recvfrom(5)
            if not whence:
                return
            server.sendto(said, whence)


def _interrupt(server: socket.socket) -> None:
    with contextlib.suppress(OSError):
        server.shutdown(socket.SHUT_RDWR)
