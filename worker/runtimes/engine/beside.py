"""A command beside a job in its container: the engine starts it there, as the container's user, in
the same namespaces, control groups and confinement as the job."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import signal
import socket
import time
from collections import deque
from collections.abc import Sequence

from tasks.errors import KeeperError
from worker.keeper import engine, procfs, protocol
from worker.keeper.frames import Frames
from worker.runtimes.base import Stream
from worker.runtimes.engine.client import EngineClient, translated
from worker.runtimes.engine.errors import EngineError

_STREAMS = (Stream.STDOUT, Stream.STDERR)
_PIECE = 1 << 16
_ANSWER_WITHIN = 30.0
_KNOWS_WITHIN = 2.0
_AGAIN = 0.02


class EngineBeside:
    """See `worker.runtimes.base.Beside`."""

    def __init__(self, client: EngineClient, container: str, argv: Sequence[str]) -> None:
        """Raises KeeperError."""
        self._client = client
        self._container = container
        self._waiting: deque[tuple[Stream, bytes]] = deque()
        self._frames = Frames(
            lambda index, data: self._waiting.append((_STREAMS[index], data)), (0, 0)
        )
        self._reader = engine.Reader()
        self._code: int | None = None
        self._name = secrets.token_hex(16)
        self._connection: socket.socket | None = None
        try:
            with translated(f"running a command in {container:.64}"):
                self._id = client.quick.exec_create(
                    container, list(argv), environment={protocol.BESIDE_VARIABLE: self._name}
                )["Id"]
            self._connection = engine.connect(str(client.socket), _ANSWER_WITHIN)
            body = json.dumps({"Detach": False, "Tty": False}).encode()
            url = f"/v{client.version().api}/exec/{self._id}/start"
            self._connection.sendall(engine.request("POST", url, upgrade=True, body=body))
        except (EngineError, OSError) as error:
            self._hang_up()
            raise KeeperError(f"exec: {error}") from error

    def read(self, timeout: float) -> tuple[Stream, bytes] | int | None:
        try:
            if not self._waiting and self._connection is not None:
                self._take(timeout)
        except (EngineError, OSError, ValueError) as error:
            raise KeeperError(f"exec: {error}") from error
        if self._waiting:
            return self._waiting.popleft()
        return self._code

    def close(self) -> None:
        if self._connection is None:
            return
        self._hang_up()
        with contextlib.suppress(EngineError):  # it ends with its container
            _end(self._client, self._container, self._id, self._name)

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _take(self, timeout: float) -> None:
        assert self._connection is not None  # noqa: S101 - read has looked
        if not select.select([self._connection], [], [], timeout)[0]:
            return
        self._reader.feed(self._connection.recv(_PIECE))
        if self._reader.status in (101, 200):
            self._frames.feed(bytes(self._reader.body))
            self._reader.body.clear()
        if self._reader.complete:
            self._learn_end()

    def _learn_end(self) -> None:
        """The output ends a moment before the engine knows how the command has ended."""
        if self._reader.status not in (101, 200):
            raise EngineError(self._reader.answer.text())
        until = time.monotonic() + _KNOWS_WITHIN
        while True:
            with translated("asking how a command ended"):
                found = self._client.quick.exec_inspect(self._id)
            if not found["Running"] and found["ExitCode"] is not None:
                break
            if time.monotonic() > until:
                raise EngineError("the engine hung up while the command ran")
            time.sleep(_AGAIN)
        self._hang_up()
        with contextlib.suppress(EngineError):  # what it has left ends with its container
            _end(self._client, self._container, self._id, self._name)
        self._code = int(found["ExitCode"])


def end_left(client: EngineClient, container: str) -> None:
    """End the commands that an earlier process has left in a container: no engine does that by
    itself. Raises EngineError."""
    with translated(f"looking for commands in {container:.64}"):
        found = client.quick.inspect_container(container)
    for one in found.get("ExecIDs") or ():
        _end(client, container, one)


def _end(client: EngineClient, container: str, command: str, name: str = "") -> None:
    """Kill a command, its process group and what it has started; the last also where the command
    has ended. Engines have no verb for that, so by its pid on this host: it runs as the node's own
    user, or the node is root; of what it has started under gVisor this host knows nothing.
    ``name``: see `protocol.BESIDE_VARIABLE`; '': any. Raises EngineError.
    """
    with translated("looking for a command"):
        found = client.quick.exec_inspect(command)
        first = int(client.quick.inspect_container(container)["State"].get("Pid") or 0)
    # by its namespace: a rootless Podman on control groups of version 1 makes none of its own
    here = procfs.namespace(first)
    if here in ("", procfs.namespace(os.getpid())):
        return

    def inside() -> list[int]:
        return [pid for pid in procfs.below(first) if procfs.namespace(pid) == here]

    pid = int(found.get("Pid") or 0) if found["Running"] else 0
    entry = procfs.process(pid) if pid > 0 else None
    if procfs.namespace(pid) != here:  # it ended meanwhile, and the pid may be anybody's
        entry = None
    procfs.kill_tree(
        0 if entry is None else pid, inside, f"{protocol.BESIDE_VARIABLE}={name}".encode()
    )
    if entry is not None:
        if entry.group == pid:
            with contextlib.suppress(OSError):
                os.killpg(pid, signal.SIGKILL)
        procfs.send(entry, signal.SIGKILL)
