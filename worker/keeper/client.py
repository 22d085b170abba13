"""The supervisor's end of the connection to a keeper."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import struct
import termios
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from tasks.errors import KeeperError
from worker.keeper import procfs, protocol, tether
from worker.keeper.conversation import SOCKET_NAME
from worker.keeper.protocol import Verb
from worker.plan import AttemptId, ExitStatus, StopCause
from worker.runtimes.base import Chunk, Status, Stream

_STREAMS = (Stream.STDOUT, Stream.STDERR)
_SEND_WITHIN = struct.pack("ll", 5, 0)  # a struct timeval
_FOR_EVER = struct.pack("ll", 0, 0)
DEAF_AFTER = 30.0
"""Seconds for which a keeper that was stopped may leave unread what it is told: it keeps no time
and ends nothing. One that waits for storage goes on when that answers."""


class KeeperLink:
    """Frames to and from one keeper. Any thread may send, and ask for the status; one reads.

    A beat or a pause never waits for whoever reads output: the two directions are independent.
    What is held is bounded: a keeper sends no more than a spool beyond what was acknowledged.
    """

    def __init__(self, connection: socket.socket, attempt: AttemptId, hello_within: float) -> None:
        """Wait for the keeper's hello.

        Raises:
            KeeperError: there is none within ``hello_within`` seconds; ``connection`` is closed.
        """
        self.attempt = attempt
        self._connection = connection
        self._sending = threading.Lock()
        self._receiving = threading.Lock()
        self._arrived: deque[Chunk | ExitStatus] = deque()
        self._buffer = memoryview(bytearray(protocol.FRAME_BYTES))
        self._offsets = [0] * protocol.STREAMS
        self._begun = [False] * protocol.STREAMS
        self._exit: ExitStatus | None = None
        self._detached = False
        self._gone = False
        """The connection is at its end."""
        self._released = False
        self._unread_since: float | None = None
        self.deaf = False
        """The keeper stands still: asking it for anything would be in vain."""
        try:
            hello = self._greet(hello_within)
        except BaseException:
            connection.close()
            raise
        self.keeper_pid = hello["keeper"]
        self.job_pid = hello["job"]
        self._tether = hello.get("tether", -1)
        self._tie = -1
        self._status = Status.PAUSED if hello["paused"] else Status.RUNNING
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _SEND_WITHIN)
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)

    @property
    def status(self) -> Status:
        """As of the last frame that has come."""
        if self._receiving.acquire(blocking=False):  # else a reader is about to take it
            try:
                while self._receive(0):
                    pass
            finally:
                self._receiving.release()
        return self._status

    @property
    def detached(self) -> bool:
        return self._detached

    def read(self, timeout: float) -> Chunk | ExitStatus | None:
        """See `worker.runtimes.base.Handle.read`.

        Raises:
            KeeperError: the keeper is gone and did not say how the attempt ended, or stands still,
                or this link was detached, or a newer supervisor has taken over.
        """
        until = time.monotonic() + timeout
        with self._receiving:
            while not self._detached:
                if self._arrived:
                    return self._arrived.popleft()
                if self._exit is not None:
                    return self._exit
                if self._gone:
                    raise KeeperError(
                        f"{self.attempt}: the keeper is gone, or another supervisor has taken over"
                    )
                if not self._receive(until - time.monotonic()):
                    self._check_hearing(time.monotonic())
                    return None
        # whatever has arrived since the last acknowledgement is the successor's
        raise KeeperError(f"{self.attempt}: this handle was detached")

    def tie(self) -> None:
        """From now on the job's process group dies with its keeper whatever it closes."""
        with self._sending:
            if self._tether >= 0 and not self._detached:
                self._tie = tether.tie_too(self.keeper_pid, self._tether, self.job_pid)
                self._tether = -1

    def _untie(self) -> None:
        if self._tie >= 0:
            os.close(self._tie)
            self._tie = -1

    def send(self, frame: bytes) -> None:
        """Send one frame. Does nothing once the exit is known.

        Raises:
            KeeperError: nobody is there to receive it.
        """
        if self._exit is not None and not self._detached:
            return
        self.send_always(frame)

    def send_always(self, frame: bytes) -> None:
        """Send one frame to the keeper, also one that only waits to be released."""
        with self._sending:
            if self._detached:
                raise KeeperError(f"{self.attempt}: this handle was detached")
            try:
                self._connection.send(frame)
            except OSError as error:
                raise KeeperError(
                    f"{self.attempt}: the keeper cannot be reached: {error}"
                ) from error

    def send_beside(self, argv: Sequence[str], fds: Sequence[int]) -> None:
        """Ask for a command beside the job: see `protocol.BESIDE`. Raises KeeperError."""
        frame = protocol.beside_frame(list(argv))
        if len(frame) > protocol.FRAME_BYTES:
            raise KeeperError(f"{self.attempt}: a command has at most {protocol.FRAME_BYTES} bytes")
        with self._sending:
            if self._detached or self._exit is not None:
                raise KeeperError(f"{self.attempt}: it has ended")
            try:
                socket.send_fds(self._connection, [frame], list(fds))
            except OSError as error:
                raise KeeperError(
                    f"{self.attempt}: the keeper cannot be reached: {error}"
                ) from error

    def ack(self, stream: Stream, offset: int) -> None:
        self.send_always(protocol.ack_frame(_STREAMS.index(stream), offset))

    def close(self) -> None:
        """Let go. Safe to call twice."""
        with self._sending:
            if self._detached:
                return
            self._detached = True
            self._untie()
        with contextlib.suppress(OSError):  # the keeper was faster
            self._connection.shutdown(socket.SHUT_RDWR)
        with self._receiving:  # whoever reads has woken up
            self._connection.close()

    def rest(self, within: float) -> socket.socket | None:
        """Release the attempt, and let its keeper rest. Of this link nothing more is to be had.

        Returns the connection for the next attempt once this one's grant is free; None where the
        keeper ended in the place of resting. The same is true then.

        Raises:
            KeeperError: it has done neither ``within`` seconds.
        """
        self.send_always(protocol.command_frame(Verb.REST))
        until = time.monotonic() + within
        with self._receiving:
            while not (self._released or self._gone):
                self._arrived.clear()
                if not self._receive(until - time.monotonic()):
                    raise KeeperError(f"{self.attempt}: the keeper does not let go")
        with self._sending:
            self._detached = True
            self._untie()
        if self._released:
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _FOR_EVER)
            return self._connection
        self._connection.close()
        return None

    def _greet(self, within: float) -> protocol.Hello:
        self._connection.settimeout(within)
        try:
            frame = self._connection.recv(protocol.FRAME_BYTES)
        except OSError as error:
            raise KeeperError(f"{self.attempt}: the keeper says nothing: {error}") from error
        finally:
            self._connection.settimeout(None)
        if frame and frame[0] == protocol.FAILED:
            raise KeeperError(f"{self.attempt}: {protocol.parse_json(frame)['error']}")
        if not frame or frame[0] != protocol.HELLO:
            raise KeeperError(f"{self.attempt}: the keeper ended before it said hello")
        hello: protocol.Hello = protocol.parse_json(frame)
        return hello

    def _check_hearing(self, now: float) -> None:
        """Raise KeeperError if the keeper has read nothing for too long, though there was something
        to read: beats alone see to that."""
        with self._sending:
            unread = 0 if self._detached else _unread(self._connection)
        if not unread:
            self._unread_since = None
        elif self._unread_since is None:
            self._unread_since = now
        elif now - self._unread_since >= DEAF_AFTER and self._stopped():
            self.deaf = True
            raise KeeperError(f"{self.attempt}: the keeper stands still")

    def _stopped(self) -> bool:
        keeper = procfs.process(self.keeper_pid)
        return keeper is not None and keeper.stopped

    def _receive(self, within: float) -> bool:
        """Take the next frame; False if none came ``within`` seconds, or ever will."""
        if self._gone or self._detached:
            return False
        try:
            try:
                size = self._connection.recv_into(self._buffer, 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                # most often there is something: waiting first would be a call more for each frame
                return bool(self._poll.poll(max(0.0, within) * 1000))
            if size:
                self._take(self._buffer[:size])
                return True
        except OSError:
            pass  # as good as its end
        self._gone = True
        if self._exit is None:
            self._status = Status.GONE
        return True

    def _take(self, frame: memoryview) -> None:
        match frame[0]:
            case protocol.DATA:
                self._deliver(*protocol.parse_data(frame))
            case protocol.STATE:
                self._status = Status.PAUSED if protocol.parse_state(frame) else Status.RUNNING
            case protocol.EXIT if self._exit is None:
                self._exit = exit_status(protocol.parse_json(frame))
                self._status = Status.EXITED
            case protocol.RELEASED:
                self._released = True

    def _deliver(self, stream: int, offset: int, data: bytes) -> None:
        """Hand on what is new; a keeper may send twice, never skip."""
        if not self._begun[stream]:
            self._begun[stream] = True
            self._offsets[stream] = offset
        known = self._offsets[stream] - offset
        if known >= len(data):
            return
        if known < 0:
            raise OSError(f"{-known} bytes of {_STREAMS[stream]} are missing at {offset}")
        fresh = data[known:]
        self._arrived.append(Chunk(stream=_STREAMS[stream], offset=offset + known, data=fresh))
        self._offsets[stream] += len(fresh)


def _unread(connection: socket.socket) -> int:
    """Bytes that the peer has not read, with what the kernel adds to them (SIOCOUTQ, unix(7))."""
    answer = fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4))
    return int(struct.unpack("i", answer)[0])


def exit_status(content: protocol.Exit) -> ExitStatus:
    """The keeper's word for it as the node's."""
    cause = content["cause"]
    return ExitStatus(
        code=content["code"],
        signal=content["signal"],
        cause=StopCause(cause) if cause else None,
        oom=content["oom"],
        error=content["error"],
        cpu_seconds=content["cpu_seconds"],
        max_rss_mb=content["max_rss_mb"],
        wall_seconds=content["wall_seconds"],
    )


def connect(directory: Path) -> socket.socket:
    """Connect to the keeper that looks after ``directory``.

    Raises:
        OSError: none listens there.
    """
    place = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.settimeout(5)
        connection.connect(f"/proc/self/fd/{place}/{SOCKET_NAME}")
    except OSError:
        connection.close()
        raise
    finally:
        os.close(place)
    return connection
