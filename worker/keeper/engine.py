"""A container engine's HTTP API over its Unix socket, for keepers: standard library only.

A keeper attaches to its container, watches it end, and pauses, signals and kills it; what else an
engine can do is for `worker.runtimes.engine`, which has a real client. Importing that one, or
http.client, would cost every slot megabytes.
"""

# No pathlib here: its import costs each slot a megabyte.
# ruff: noqa: PTH119, PTH120

from __future__ import annotations

import errno
import os
import socket
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_PIECE: Final = 1 << 16
_PATH_BYTES: Final = 107
"""What an AF_UNIX path has room for."""
_MOST_BODY: Final = 4 << 20
"""More than any answer that is read whole has."""


class Answer:
    """An answer that was read whole."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.status = status
        self.body = body
        self.headers = headers
        """By their names in small letters."""

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    def text(self) -> str:
        """What the engine says for people."""
        import json

        try:
            return str(json.loads(self.body)["message"])
        except (ValueError, KeyError, TypeError):
            return self.body.decode(errors="replace").strip()[:500] or f"HTTP {self.status}"


def connect(path: str, within: float | None) -> socket.socket:
    """A connection to the engine that listens at ``path``. None: it does not block from here on.

    Raises:
        OSError: nobody listens there, or this user may not talk to them.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(0.0 if within is None else within)
        if len(path.encode()) <= _PATH_BYTES:
            connection.connect(path)
        else:
            place = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY)
            try:
                connection.connect(f"/proc/self/fd/{place}/{os.path.basename(path)}")
            finally:
                os.close(place)
    except OSError:
        connection.close()
        raise
    return connection


def request(
    method: str, path: str, *, upgrade: bool = False, body: bytes = b"", auth: str = ""
) -> bytes:
    """The bytes of a request. ``body``: JSON; ``auth``: a login for a registry, as engines want
    it."""
    kind = "Connection: Upgrade\r\nUpgrade: tcp\r\n" if upgrade else "Connection: close\r\n"
    kind += "Content-Type: application/json\r\n" if body else ""
    kind += f"X-Registry-Auth: {auth}\r\n" if auth else ""
    kind += f"Content-Length: {len(body)}\r\n"
    head = f"{method} {path} HTTP/1.1\r\nHost: engine\r\n{kind}\r\n"
    return head.encode("ascii") + body


def call(path: str, method: str, url: str, *, within: float) -> Answer:
    """One request and its whole answer, in at most ``within`` seconds.

    Raises:
        OSError: the engine cannot be reached, or did not answer in time.
    """
    until = time.monotonic() + within
    connection = connect(path, within)
    try:
        connection.sendall(request(method, url))
        reader = Reader()
        while not reader.complete:
            connection.settimeout(max(0.001, until - time.monotonic()))
            reader.feed(connection.recv(_PIECE))
        return reader.answer
    finally:
        connection.close()


class Reader:
    """Understands an answer as its bytes come. ``body`` grows; whoever streams takes from it."""

    __slots__ = ("_buffer", "_chunk", "_chunked", "_ended", "_left", "body", "headers", "status")

    def __init__(self) -> None:
        self.status = 0
        """0 until the head is there."""
        self.body = bytearray()
        self.headers: dict[str, str] = {}
        self._buffer = bytearray()
        self._chunked = False
        self._chunk = 0
        """Bytes of the current chunk that are still to come, with its line end."""
        self._left: int | None = None
        """Bytes of the body that are still to come, where their number was said."""
        self._ended = False

    @property
    def complete(self) -> bool:
        return self._ended

    @property
    def raw(self) -> bool:
        """The rest of the connection is the body, and none of it has been kept."""
        return self.status in (101, 200) and not (
            self._chunked or self._ended or self.body or self._left is not None
        )

    @property
    def answer(self) -> Answer:
        return Answer(self.status, bytes(self.body), self.headers)

    def feed(self, data: bytes) -> None:
        """Take these bytes; none are the end of the connection.

        Raises:
            OSError: the connection ended in the middle, or this is no HTTP.
        """
        if not data:
            self._finish()
            return
        if self.status and not self._chunked:
            self._take(data)
        else:
            self._buffer += data
            if not self.status and not self._head():
                return
            if self._chunked:
                self._dechunk()
        if len(self.body) > _MOST_BODY:
            raise OSError(errno.EMSGSIZE, "the engine's answer is longer than any should be")

    def _finish(self) -> None:
        cut = not self.status or self._left or (self._chunked and not self._ended)
        self._ended = True
        if cut:
            raise ConnectionResetError(errno.ECONNRESET, "the engine ended the connection")

    def _head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        lines = self._buffer[:end].decode("latin-1").split("\r\n")
        try:
            self.status = int(lines[0].split(" ", 2)[1])
        except (IndexError, ValueError):
            raise OSError(errno.EPROTO, "this is no container engine") from None
        pairs = [line.split(":", 1) for line in lines[1:] if ":" in line]
        self.headers = headers = {name.lower(): value.strip() for name, value in pairs}
        del self._buffer[: end + 4]
        if headers.get("transfer-encoding", "").lower() == "chunked":
            self._chunked = True
            return True
        if self.status in (204, 304):
            self._left = 0
        elif "content-length" in headers:
            self._left = int(headers["content-length"])
        rest = bytes(self._buffer)
        self._buffer.clear()
        self._take(rest)
        return True

    def _take(self, data: bytes) -> None:
        self.body += data
        if self._left is not None:
            self._left -= len(data)
            self._ended = self._left <= 0

    def _dechunk(self) -> None:
        while self._buffer and not self._ended:
            if self._chunk > 0:
                taken = min(self._chunk, len(self._buffer))
                # the last two bytes of a chunk are its line end
                content = max(0, min(taken, self._chunk - 2))
                self.body += self._buffer[:content]
                del self._buffer[:taken]
                self._chunk -= taken
                continue
            end = self._buffer.find(b"\r\n")
            if end < 0:
                return
            try:
                size = int(bytes(self._buffer[:end]).split(b";")[0], 16)
            except ValueError:
                raise OSError(errno.EPROTO, "the engine's answer is garbled") from None
            del self._buffer[: end + 2]
            self._chunk = size + 2
            self._ended = size == 0


class Exchange:
    """One request whose answer is waited for without blocking."""

    __slots__ = ("_connection", "reader")

    def __init__(self, path: str, method: str, url: str, *, upgrade: bool = False) -> None:
        """Raises OSError: the engine cannot be reached."""
        self.reader = Reader()
        self._connection = connect(path, None)
        try:
            self._connection.sendall(request(method, url, upgrade=upgrade))
        except OSError:
            self._connection.close()
            raise

    @property
    def fd(self) -> int:
        """The connection, -1 once it is closed."""
        return self._connection.fileno()

    def advance(self, most: int = _PIECE) -> bool:
        """Take what has come, at most ``most`` bytes. False: there is nothing now.

        Raises:
            OSError: the connection broke before the answer was whole.
        """
        try:
            data = self._connection.recv(most)
        except BlockingIOError:
            return False
        self.reader.feed(data)
        return True

    def stream(self, most: int) -> bytes | None:
        """What has come of a body that streams, at most ``most`` bytes; None: nothing now.

        Raises:
            OSError: the connection broke before the answer was whole.
        """
        try:
            data = self._connection.recv(most)
        except BlockingIOError:
            return None
        reader = self.reader
        if data and reader.raw:
            return data  # no head, no chunks: nothing to be understood
        reader.feed(data)
        if reader.status not in (101, 200):
            return b""
        body = bytes(reader.body)
        reader.body.clear()
        return body

    def close(self) -> None:
        self._connection.close()
