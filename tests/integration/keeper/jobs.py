"""Native jobs under real keepers, for tests of both."""

from __future__ import annotations

import textwrap

from tests.support.runtimes import PYTHON, Places, hear, soon
from worker.keeper import lock, procfs
from worker.plan import LaunchPlan, Limits
from worker.runtimes.base import Handle
from worker.runtimes.native import NativeRuntime

DAEMON = """
import os, signal, sys, time
def daemon(scrub=False, close=False):
    r, w = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            if close:
                os.closerange(3, w); os.closerange(w + 1, 1000)
            os.write(w, str(os.getpid()).encode())
            os.close(w)
            if scrub:
                fds = [int(f) for f in os.listdir('/proc/self/fd') if int(f) > 2]
                for f in fds:
                    try: os.set_inheritable(f, True)
                    except OSError: pass
                os.execve(sys.executable, [sys.executable, '-S', '-c',
                          'import time; time.sleep(600)'], {})
            time.sleep(600)
        os._exit(0)
    pid = int(os.read(r, 20))
    os.close(r); os.close(w)
    return pid
"""


def plan(places: Places, source: str, limits: Limits | None = None) -> LaunchPlan:
    argv = (PYTHON, "-S", "-c", textwrap.dedent(source))
    return places.plan(argv, limits or Limits())


def start(
    runtime: NativeRuntime, places: Places, source: str, limits: Limits | None = None
) -> tuple[Handle, LaunchPlan]:
    made = plan(places, source, limits)
    handle = runtime.start(made, soon())
    places.release()
    return handle, made


def line(handle: Handle) -> str:
    """The first line that the job prints."""
    heard = hear(handle, until=lambda heard: b"\n" in heard.out or heard.exit is not None)
    assert b"\n" in heard.out, (heard.err.decode(), heard.exit)
    return heard.out.split(b"\n")[0].decode()


def gone(pid: int) -> bool:
    entry = procfs.process(pid)
    return entry is None or entry.dead


def keeper_of(made: LaunchPlan) -> int:
    record = lock.read(made.state)
    assert record is not None
    return record.pid
