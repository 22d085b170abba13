"""The nursery's own process: imports what slot workers need, then forks one for each request.

Memory and start are what this is for: pages that are imported once are shared by all slots, and a
worker that was killed is back without importing anything. There is one thread, and no connection
is open, until a worker has its own process.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import tempfile
from typing import Any, Final

from worker.keeper import descriptors, prctl

_MAX_FDS: Final = 8


def serve(channel: socket.socket) -> dict[str, Any] | None:
    """Fork a process for each request that comes over ``channel``, until its other end is closed.

    A request is one packet with three descriptors: a memfd with ``{"argv", "env", "cwd", "name"}``
    as JSON, where the worker writes, and a pipe that says go. The answer is ``{"pid"}``, or
    ``{"error"}``; when a worker has ended, ``{"ended", "status"}`` says how.

    Returns None at the end; in a forked process its request, once it may go.
    """
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    children: dict[int, int] = {}
    while True:
        for fd, _ in poll.poll():
            if fd in children:
                poll.unregister(fd)
                os.close(fd)
                pid, status = os.waitpid(children.pop(fd), 0)
                _say(channel, {"ended": pid, "status": os.waitstatus_to_exitcode(status)})
                continue
            _, fds = descriptors.receive(channel, _MAX_FDS)
            if not fds:
                return None
            try:
                pid = os.fork()
            except OSError as error:
                _say(channel, {"error": os.strerror(error.errno or 0)})
            else:
                if pid == 0:
                    channel.close()
                    for handle in children:
                        os.close(handle)
                    return _born(*fds)
                handle = os.pidfd_open(pid)
                children[handle] = pid
                poll.register(handle, select.POLLIN)
                _say(channel, {"pid": pid})
            for received in fds:
                os.close(received)


def _say(channel: socket.socket, content: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # the agent is gone: the next receive says so
        channel.send(json.dumps(content).encode())


def _born(content: int, out: int, go: int) -> dict[str, Any]:
    """In the new process: be what was asked for, once the agent has written down that it is."""
    os.setsid()
    request: dict[str, Any] = json.loads(os.pread(content, os.fstat(content).st_size, 0))
    if not os.read(go, 1):
        os._exit(0)  # the agent died: nobody would know of this one
    os.dup2(out, 1)
    os.dup2(out, 2)
    for fd in (content, out, go):
        os.close(fd)
    prctl.set_name(request["name"])
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    tempfile.tempdir = None  # it is looked up in the environment again
    gc.enable()
    return request


def become(argv: list[str]) -> None:
    """Run the program: Celery in this process, whose modules are there, anything else instead of
    it. Does not return."""
    if argv[:3] == [sys.executable, "-m", "celery"]:
        from celery.__main__ import main as celery

        sys.argv = ["celery", *argv[3:]]
        celery()
        sys.exit()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python had set it, and a program inherits it
    try:
        os.execvp(argv[0], argv)  # noqa: S606 - no shell is wanted
    except OSError as error:
        sys.exit(f"{argv[0]}: {error.strerror}")


def main(fd: int, modules: list[str]) -> None:
    """``nursery_main.py FD MODULE...``"""
    channel = socket.socket(fileno=fd)
    prctl.set_name("cyxwiz-nursery")
    for module in modules:
        # where one cannot be imported, the worker that needs it says so, in its own log
        with contextlib.suppress(Exception):
            importlib.import_module(module)
    gc.collect()
    gc.freeze()  # what is here stays in pages shared with every worker
    gc.disable()
    request = serve(channel)
    if request is not None:
        become(request["argv"])


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
