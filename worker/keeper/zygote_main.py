"""The zygote's own process: waits for a request, forks a keeper, waits for the next.

It is started with ``-I -S`` and imports what a keeper needs before the first request, so that a
keeper costs a fork. It holds nothing of the slot worker but one socket, and ends with it.

A keeper whose attempt is over may rest and keep the next one: most of what a fork costs is the
copying of pages that both sides write to, and that is paid once then.
"""

# No pathlib here: its import costs each slot a megabyte.
# ruff: noqa: PTH115, PTH120, PTH123

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import struct
import time

from worker.keeper import descriptors, job, keeper, prctl, protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_MAX_FDS = 250
_READY = 1
_MOST_ATTEMPTS = 1000
"""Of one keeper: what a process gathers in a long life goes with it."""
_COLLECTED_EVERY = 32
"""Attempts, of those that are shorter than `_SHORT_S`: a round costs a twentieth of what all else
of such a one costs its keeper."""
_SHORT_S = 0.1
_PID = struct.Struct("!i")


def main(fd: int) -> None:
    """Serve requests from socket ``fd`` until its other end is closed.

    A request is one packet with descriptors: the keeper's end of its connection, its lock, a memfd
    with the spec, and the leases. The answer is the keeper's pid, or minus an errno. A keeper that
    rests is asked over its connection, which it has already, and answers with its hello.
    """
    parent = socket.socket(fileno=fd)
    prctl.set_name("cyxwiz-zygote")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # Keepers are this process's children, and nobody waits for them here: the kernel reaps them.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.collect()
    gc.freeze()  # what is here stays in pages shared with every keeper
    gc.disable()
    parent.send(_PID.pack(_READY))
    while True:
        request, fds = descriptors.receive(parent, _MAX_FDS)
        if not request:
            return
        try:
            pid = os.fork()
        except OSError as error:
            pid = -(error.errno or 1)
        if pid == 0:
            parent.close()
            _keep(fds)
        for received in fds:
            os.close(received)
        parent.send(_PID.pack(pid))


def _keep(fds: list[int]) -> NoReturn:
    """Be the keeper of one attempt, and of those that its supervisor has for it after that."""
    failed = 1
    lock = -1
    try:
        os.setsid()
        os.umask(0o077)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number in job.IGNORED:
            signal.signal(number, signal.SIG_IGN)
        prctl.set_name("cyxwiz-keeper")
        connection: socket.socket | None
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fds[0])
        request, fds = b"+", fds[1:]
        left = _MOST_ATTEMPTS
        while connection is not None and request:
            left -= 1
            lock, began = fds[0], time.monotonic()
            connection = _keep_one(connection, lock, fds[1], fds[2:], may_rest=left > 0)
            lock = -1
            if connection is not None:
                if left % _COLLECTED_EVERY == 0 or time.monotonic() - began > _SHORT_S:
                    gc.collect()  # of these attempts alone: the rest is frozen
                request, fds = descriptors.receive(connection, _MAX_FDS)
        failed = 0
    except BaseException:
        _leave_note(lock)
    finally:
        os._exit(failed)


def _keep_one(
    connection: socket.socket, lock: int, content: int, leases: list[int], *, may_rest: bool
) -> socket.socket | None:
    """Keep one attempt; returns the connection on which the next is asked for, if one may be."""
    spec: protocol.Spec = json.loads(os.pread(content, os.fstat(content).st_size, 0))
    os.close(content)
    one = keeper.Keeper(spec, lock, leases, may_rest=may_rest)
    try:
        one.start(connection)
    except OSError as error:
        connection.setblocking(False)
        connection.send(protocol.json_frame(protocol.FAILED, {"error": str(error)}))
        return None
    return one.run()


def _leave_note(lock: int) -> None:
    """Why a keeper broke, beside its lock: its job dies with it, and this is all that is left."""
    if lock < 0:
        return
    import traceback

    place = os.readlink(f"/proc/self/fd/{lock}")
    with open(f"{os.path.dirname(place)}/keeper.err", "w") as note:
        note.write(traceback.format_exc())
