"""What the kernel would do with a packet that came in by an interface: asked, not tried. Linux."""

from __future__ import annotations

import os
import socket
import struct
from typing import Final

_GETROUTE: Final = 26
_REQUEST: Final = 1
_ERROR: Final = 2
_DESTINATION, _SOURCE, _IN_BY = 1, 2, 3
_UNICAST, _LOCAL = 1, 2
"""Kinds of routes that lead somewhere; all others throw the packet away."""


def leads_somewhere(destination: str, source: str, interface: str) -> str:
    """Where a packet from ``source`` to ``destination`` (IPv4) would go that came in by
    ``interface``; '' if the kernel would refuse it.

    Raises OSError: the kernel cannot be asked, or there is no such interface here.
    """
    index = socket.if_nametoindex(interface)
    attributes = (
        _attribute(_DESTINATION, socket.inet_aton(destination))
        + _attribute(_SOURCE, socket.inet_aton(source))
        + _attribute(_IN_BY, struct.pack("=I", index))
    )
    message = struct.pack("=BBBBBBBBI", socket.AF_INET, 32, 32, 0, 0, 0, 0, 0, 0) + attributes
    header = struct.pack("=IHHII", 16 + len(message), _GETROUTE, _REQUEST, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.settimeout(5.0)
        kernel.send(header + message)
        answer = kernel.recv(1 << 16)
    kind = struct.unpack_from("=IHHII", answer)[1]
    if kind == _ERROR:
        code = -struct.unpack_from("=i", answer, 16)[0]
        refused = code in (13, 22, 101, 113)  # prohibit, blackhole, no route, unreachable
        if refused:
            return ""
        raise OSError(code, os.strerror(code))
    way = answer[16 + 7]
    return "" if way not in (_UNICAST, _LOCAL) else ("the host" if way == _LOCAL else "outside")


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value
