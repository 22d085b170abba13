"""The zygote's own process: waits for a request, forks a keeper, waits for the next.

It is started with ``-I -S`` and imports what a keeper needs before the first request, so that a
keeper costs a fork. It holds nothing of the slot worker but one socket, and ends with it.
"""

# No pathlib here: its import costs each slot a megabyte.
# ruff: noqa: PTH115, PTH120, PTH123

from __future__ import annotations

import array
import gc
import json
import os
import signal
import socket
import struct

from worker.keeper import keeper, prctl, protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_MAX_FDS = 250
_READY = 1
_PID = struct.Struct("!i")


def main(fd: int) -> None:
    """Serve requests from socket ``fd`` until its other end is closed.

    A request is one packet with descriptors: the keeper's end of its connection, its lock, a memfd
    with the spec, and the leases. The answer is the keeper's pid, or minus an errno.
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
        request, fds = _receive(parent)
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


def _receive(parent: socket.socket) -> tuple[bytes, list[int]]:
    space = socket.CMSG_SPACE(_MAX_FDS * array.array("i").itemsize)
    request, ancillary, _, _ = parent.recvmsg(16, space, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return request, list(fds)


def _keep(fds: list[int]) -> NoReturn:
    """Be the keeper of one attempt, then end."""
    failed = 1
    connection = None
    try:
        os.setsid()
        os.umask(0o077)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        prctl.set_name("cyxwiz-keeper")
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fds[0])
        size = os.fstat(fds[2]).st_size
        spec: protocol.Spec = json.loads(os.pread(fds[2], size, 0))
        os.close(fds[2])
        one = keeper.Keeper(spec, fds[1], fds[3:])
        try:
            one.start(connection)
        except OSError as error:
            connection.setblocking(False)
            connection.send(protocol.json_frame(protocol.FAILED, {"error": str(error)}))
        else:
            one.run()
            failed = 0
    except BaseException:
        _leave_note(fds)
    finally:
        os._exit(failed)


def _leave_note(fds: list[int]) -> None:
    """Why a keeper broke, beside its lock: its job dies with it, and this is all that is left."""
    import traceback

    place = os.readlink(f"/proc/self/fd/{fds[1]}")
    with open(f"{os.path.dirname(place)}/keeper.err", "w") as note:
        note.write(traceback.format_exc())
