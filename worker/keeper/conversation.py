"""The keeper's side of its connection: never blocks, whatever the supervisor does."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections import deque

from worker.keeper import descriptors, protocol
from worker.keeper.spool import Spool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

SOCKET_NAME: Final = "keeper.sock"
_RIGHTS = descriptors.space(protocol.BESIDE_FDS)


def listen(directory: str) -> socket.socket:
    """Listen on ``directory``/keeper.sock, for this user alone.

    The path goes through /proc/self/fd: a socket's own may have 107 bytes at most.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    place = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        before = os.umask(0o177)
        try:
            listener.bind(f"/proc/self/fd/{place}/{SOCKET_NAME}")
        finally:
            os.umask(before)
        listener.listen(4)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    finally:
        os.close(place)
    return listener


def trusted(connection: socket.socket) -> bool:
    """Whether the peer is this user or root."""
    size = struct.calcsize("3i")
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    return struct.unpack("3i", credentials)[1] in (0, os.geteuid())


class Conversation:
    """Frames to and from the supervisor that is attached, if one is.

    Control frames go first, then data, then the farewell (the exit), which stays for whoever
    attaches next.
    """

    def __init__(self, spools: list[Spool]) -> None:
        self._spools = spools
        self._connection: socket.socket | None = None
        self._control: deque[bytes] = deque()
        self._farewell: bytes | None = None
        self._farewell_sent = False
        self.came_along: list[int] = []
        """Descriptors of the frame that was heard last."""
        self.blocked = False
        """The supervisor's buffer is full: go on when the socket is writable."""

    @property
    def fd(self) -> int:
        """The connection's descriptor, or -1."""
        return self._connection.fileno() if self._connection else -1

    def attach(self, connection: socket.socket, greeting: bytes) -> None:
        """Talk to this supervisor from now on; the newest one is the one that counts."""
        self.drop()
        connection.setblocking(False)
        self._connection = connection
        self._control = deque((greeting,))
        self._farewell_sent = False
        for spool in self._spools:
            spool.rewind()

    def drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        self._control.clear()
        self.blocked = False

    def hand_over(self) -> socket.socket | None:
        """Tell the supervisor that the attempt is released; the connection is the caller's then.

        None: nobody is attached any more.
        """
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.setblocking(True)  # nothing is held any more that could be held up
            try:
                connection.send(bytes((protocol.RELEASED,)))
            except OSError:
                connection.close()
                return None
        return connection

    def say(self, frame: bytes) -> None:
        """Send a control frame; without a supervisor there is nobody to tell."""
        if self._connection is not None:
            self._control.append(frame)

    def bid_farewell(self, frame: bytes) -> None:
        self._farewell = frame

    def hear(self) -> bytes | None:
        """The next frame, b'' at the end of the connection, None if there is none now.

        Descriptors that came with it are in `came_along`, and the caller's to close.
        """
        if self._connection is None:
            return None
        try:
            frame, ancillary, _, _ = self._connection.recvmsg(
                protocol.FRAME_BYTES, _RIGHTS, socket.MSG_CMSG_CLOEXEC
            )
            self.came_along = descriptors.that_came(ancillary) if ancillary else []
            return frame
        except BlockingIOError:
            return None
        except ConnectionResetError:
            # It went with something unread, and this is told first; its last words come after it.
            with contextlib.suppress(OSError):
                return self._connection.recv(protocol.FRAME_BYTES)
            return b""
        except OSError:
            return b""

    def flush(self) -> bool:
        """Send what can be sent now. False: the connection is broken."""
        self.blocked = False
        try:
            while self._connection is not None and self._send_next(self._connection):
                pass
        except BlockingIOError:
            self.blocked = True
        except OSError:
            return False
        return True

    def _send_next(self, connection: socket.socket) -> bool:
        """Send the next frame; False if there is none. Raises OSError: it was not sent."""
        if self._control:
            connection.send(self._control[0])
            self._control.popleft()
            return True
        for index, spool in enumerate(self._spools):
            if spool.sent < spool.end:
                data = spool.next()
                connection.sendmsg((protocol.data_head(index, spool.sent), data))
                spool.sent += len(data)
                return True
        if self._farewell is not None and not self._farewell_sent:
            connection.send(self._farewell)
            self._farewell_sent = True
            return True
        return False
