"""Commands that run beside a native job: with its limits, and as long as it at most.

Each is a child of the keeper like the job itself, so it is stopped, measured and killed with it,
and holds the grant's leases. It ends with whoever asked for it: the other end of its line closes
then. What it has started ends with it, unless it has shed both its parents and its environment:
that is the job's, and ends with the job.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from functools import partial

from worker.keeper import job, procfs, protocol
from worker.keeper.watch import READ, Watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from worker.keeper.protocol import Spec
    from worker.keeper.tether import Tether


class Beside:
    """Of one attempt."""

    def __init__(self, spec: Spec, leases: list[int], watch: Watch, tether: Tether) -> None:
        self._spec = spec
        self._leases = leases
        self._watch = watch
        self._tether = tether
        self._lines: dict[int, socket.socket] = {}
        self._markers: dict[int, bytes] = {}
        """By which what a command has started is known, wherever it has gone."""

    def start(self, argv: list[str], fds: list[int]) -> None:
        """Start the command. Where that fails its line says why, and closes."""
        if len(fds) != protocol.BESIDE_FDS:
            for fd in fds:
                os.close(fd)
            return
        line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fds[-1])
        # The keeper stands still until a program is executed, which may be long where its file
        # is far away; a shell is here.
        name = os.urandom(16).hex()
        spec: Spec = {
            **self._spec,
            "argv": ["/bin/sh", "-c", 'exec "$@"', "sh", *argv],
            "env": {**self._spec["env"], protocol.BESIDE_VARIABLE: name},
        }
        try:
            pid = job.start(spec, fds[: protocol.STREAMS], self._leases, self._tether)
        except OSError as error:
            why = (
                str(error)
                if isinstance(error, job.CannotExecute)
                else f"cannot be started: {error}"
            )
            _tell(line, why.encode(errors="replace"))
            line.close()
        else:
            line.setblocking(False)
            self._lines[pid] = line
            self._markers[pid] = f"{protocol.BESIDE_VARIABLE}={name}".encode()
            self._watch.want(line.fileno(), READ, partial(self._hung_up, pid))
        finally:
            for fd in fds[: protocol.STREAMS]:
                os.close(fd)

    def ended(self, pid: int, status: int) -> None:
        """A child was waited for: say how it ended, if it is one of these. What it leaves goes."""
        line = self._lines.pop(pid, None)
        if line is None:
            return
        _end(0, self._markers.pop(pid))
        code = os.waitstatus_to_exitcode(status)
        _tell(line, json.dumps({"code": code if code >= 0 else 128 - code}).encode())
        self._let_go(line)

    def leave(self) -> None:
        """The attempt is over, and every child with it."""
        while self._lines:
            self._let_go(self._lines.popitem()[1])

    def _hung_up(self, pid: int) -> None:
        """Nobody waits for it any more. Not waited for yet, so the pid is still its own."""
        self._watch.forget(self._lines[pid].fileno())
        _end(pid, self._markers[pid])
        with contextlib.suppress(OSError):  # it is dead
            os.killpg(pid, signal.SIGKILL)

    def _let_go(self, line: socket.socket) -> None:
        self._watch.forget(line.fileno())
        line.close()


def _end(pid: int, marker: bytes) -> None:
    procfs.kill_tree(pid, lambda: procfs.below(os.getpid()), marker)


def _tell(line: socket.socket, what: bytes) -> None:
    with contextlib.suppress(OSError):  # whoever asked has gone
        line.send(what)
