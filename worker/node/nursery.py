"""Starts slot workers: the agent's side of its nursery."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from worker.keeper import descriptors
from worker.node.processes import WatchedProcess

_ANSWER_WITHIN: Final = 60.0
"""Seconds: its imports come first, on a host that may be busy."""
_STATUS_WITHIN: Final = 1.0
_MOST: Final = 4096
"""The longest answer, bytes."""


class Newborn:
    """A worker that waits for `go`."""

    def __init__(self, process: WatchedProcess, pipe: int) -> None:
        self.process = process
        self._pipe = pipe

    def go(self) -> None:
        """What there is to know of it is written down: it may begin."""
        with contextlib.suppress(OSError):  # it has ended already
            os.write(self._pipe, b"+")
        os.close(self._pipe)

    def let_go(self) -> None:
        """It is not wanted: it ends."""
        os.close(self._pipe)


class Nursery:
    """One process that has imported what slot workers need, and forks them. One thread's.

    It ends with the agent; the workers that it forked live on. Should it die, the next start of a
    worker has another one started.
    """

    def __init__(self, modules: Sequence[str], env: Mapping[str, str], cwd: Path) -> None:
        """``modules``: what is imported beforehand. ``env``: its environment, by which the workers
        are known too, since theirs comes later than what /proc shows of it."""
        self._modules = modules
        self._env = env
        self._cwd = cwd
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._ended: dict[int, int] = {}

    def start(self) -> None:
        """Have it import now what it will need. Does not wait. Raises OSError."""
        if self._channel is not None:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(_ANSWER_WITHIN)
        command = [sys.executable, "-m", "worker.node.nursery_main", str(theirs.fileno())]
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [*command, *self._modules],
                    env=self._env,
                    stdin=subprocess.DEVNULL,
                    stdout=2,  # stdout is the agent's own: people and programs read it
                    cwd=self._cwd,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
        except OSError:
            ours.close()
            raise
        self._channel = ours

    def bear(
        self, argv: Sequence[str], *, env: Mapping[str, str], output: int, name: str
    ) -> Newborn:
        """A new process that will be ``argv`` once it may go.

        ``output``: the descriptor for its stdout and stderr. ``name``: what ps shows.

        Raises:
            OSError: there is no such process.
        """
        content = os.memfd_create("worker")
        hears, says = os.pipe()
        try:
            request = {"argv": [*argv], "env": {**env}, "cwd": str(self._cwd), "name": name}
            os.write(content, json.dumps(request).encode())
            pid = self._ask([content, output, hears])
            return Newborn(WatchedProcess.of_pid(pid, lambda: self._status(pid)), says)
        except OSError:
            os.close(says)
            raise
        finally:
            os.close(hears)
            os.close(content)

    def close(self) -> None:
        """End it. Safe to call twice."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=1)
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
            self._process = None

    def _ask(self, fds: Sequence[int]) -> int:
        for last in (False, True):
            self.start()
            assert self._channel is not None  # noqa: S101 - for the type checker
            try:
                descriptors.send(self._channel, fds)
                while "pid" not in (answer := self._hear(self._channel)):
                    if "error" in answer:
                        raise OSError(f"no process can be forked: {answer['error']}")
                self._ended.pop(answer["pid"], None)  # of one that had this pid before
                return int(answer["pid"])
            except ConnectionError:
                # whoever it may have forked meanwhile was never told to go
                self.close()
                if last:
                    raise
            except TimeoutError:
                self.close()
                raise
        raise AssertionError

    def _hear(self, channel: socket.socket) -> dict[str, Any]:
        packet = channel.recv(_MOST)
        if not packet:
            raise ConnectionResetError("the slot workers' nursery has ended")
        answer: dict[str, Any] = json.loads(packet)
        if "ended" in answer:
            self._ended[answer["ended"]] = answer["status"]
        return answer

    def _status(self, pid: int) -> int | None:
        """How a worker ended that has ended; None if nobody knows any more."""
        with contextlib.suppress(OSError):
            while pid not in self._ended and self._channel is not None:
                if not select.select([self._channel], [], [], _STATUS_WITHIN)[0]:
                    break
                self._hear(self._channel)
        return self._ended.pop(pid, None)
