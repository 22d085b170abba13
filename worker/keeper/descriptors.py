"""Packets that carry open files, between processes of a node.

No import but what keepers have: each costs every slot.
"""

from __future__ import annotations

import array
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def send(channel: socket.socket, fds: Sequence[int]) -> None:
    """Send one packet with ``fds``, which stay the caller's. Raises OSError."""
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
    channel.sendmsg([b"+"], [rights])


def receive(channel: socket.socket, most: int) -> tuple[bytes, list[int]]:
    """The next packet, and at most ``most`` descriptors that came with it, closed by an exec; an
    empty one is the end. Raises OSError."""
    packet, ancillary, _, _ = channel.recvmsg(16, space(most), socket.MSG_CMSG_CLOEXEC)
    return packet, that_came(ancillary)


def space(most: int) -> int:
    """Bytes of ancillary data that ``most`` descriptors take."""
    return socket.CMSG_SPACE(most * array.array("i").itemsize)


def that_came(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors of a packet's ancillary data."""
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)
