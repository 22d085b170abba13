"""What a job leaves, and what it takes: all its processes, memory, output."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace

import pytest

from tests.integration.keeper.jobs import DAEMON, gone, keeper_of, line, plan, start
from tests.support.runtimes import PYTHON, Places, hear, soon
from tests.support.waiting import wait_until
from worker.keeper import procfs
from worker.plan import Limits, StopCause
from worker.runtimes.base import Status
from worker.runtimes.native import NativeRuntime

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="keepers need Linux"),
]


def test_a_daemon_is_dead_before_the_exit_is_told(places: Places, runtime: NativeRuntime) -> None:
    handle, _ = start(runtime, places, DAEMON + "print(daemon(scrub=True), flush=True)")
    survivor = int(line(handle))
    end = hear(handle).exit
    assert gone(survivor)
    assert end is not None
    assert (end.code, end.cause) == (0, None)
    handle.remove()


def test_a_stop_reaches_the_daemon_too(places: Places, runtime: NativeRuntime) -> None:
    handle, _ = start(
        runtime, places, DAEMON + "print(daemon(scrub=True), flush=True)\ntime.sleep(600)"
    )
    survivor = int(line(handle))
    handle.stop(5)
    end = hear(handle).exit
    assert gone(survivor)
    assert end is not None
    assert (end.signal, end.cause) == (signal.SIGTERM, StopCause.REQUESTED)
    handle.remove()


def test_pause_stops_every_descendant(places: Places, runtime: NativeRuntime) -> None:
    handle, made = start(runtime, places, DAEMON + "print(daemon(), flush=True)\ntime.sleep(600)")
    line(handle)
    handle.pause()
    wait_until(lambda: handle.status() is Status.PAUSED, what="paused")
    family = procfs.descendants(keeper_of(made))
    assert len(family) == 2
    assert all(entry.stopped for entry in family)
    os.kill(family[0].pid, signal.SIGCONT)  # somebody from outside

    def stopped() -> bool:
        return all(entry.stopped for entry in procfs.descendants(keeper_of(made)))

    wait_until(stopped, what="stopped again")
    handle.resume()
    wait_until(lambda: handle.status() is Status.RUNNING, what="resumed")
    assert not any(entry.stopped for entry in procfs.descendants(keeper_of(made)))
    handle.remove()


def test_a_fork_bomb_is_bounded(places: Places, runtime: NativeRuntime) -> None:
    source = """
    import os, time
    for _ in range(400):
        if os.fork() == 0:
            os.setsid()
            time.sleep(600)
    time.sleep(600)
    """
    handle, made = start(runtime, places, source, Limits(pids=50))
    keeper = keeper_of(made)
    end = hear(handle).exit
    assert end is not None
    assert (end.signal, end.cause, end.oom) == (signal.SIGKILL, StopCause.PIDS, False)
    assert procfs.descendants(keeper) == []
    handle.remove()


def test_memory_is_bounded_over_all_processes(places: Places, runtime: NativeRuntime) -> None:
    source = """
    import os, time
    for _ in range(3):
        if os.fork() == 0:
            break
    held = bytearray(40 << 20)
    for i in range(0, len(held), 4096): held[i] = 1
    time.sleep(600)
    """
    handle, _ = start(runtime, places, source, Limits(memory_mb=100))
    end = hear(handle).exit
    assert end is not None
    assert (end.signal, end.cause, end.oom) == (signal.SIGKILL, StopCause.MEMORY, True)
    handle.remove()


def test_shared_pages_count_once(places: Places, runtime: NativeRuntime) -> None:
    source = """
    import os, sys, time
    held = bytearray(60 << 20)
    for i in range(0, len(held), 4096): held[i] = 1
    for _ in range(4):
        if os.fork() == 0:
            time.sleep(600)
    time.sleep(2)
    print('alive', flush=True)
    """
    handle, _ = start(runtime, places, source, Limits(memory_mb=150))
    assert line(handle) == "alive"
    end = hear(handle).exit
    assert end is not None
    assert (end.code, end.cause, end.oom) == (0, None, False)
    handle.remove()


@pytest.mark.parametrize("wait", ["time.sleep(600)", ""])
def test_output_is_bounded(places: Places, runtime: NativeRuntime, wait: str) -> None:
    made = plan(places, "", Limits(output_mb=2))
    source = f"""
import time
for i in range(4):
    with open({str(made.checkpoints)!r} + '/' + str(i), 'wb') as f: f.write(b'x' * (1 << 20))
{wait}
"""
    handle = runtime.start(replace(made, argv=(PYTHON, "-S", "-c", source)), soon())
    end = hear(handle).exit
    assert end is not None
    assert end.cause is StopCause.OUTPUT
    handle.remove()


def test_output_without_a_name_is_bounded(places: Places, runtime: NativeRuntime) -> None:
    made = plan(places, "", Limits(output_mb=2))
    source = f"""
import os, time
held = []
for i in range(4):
    held.append(open({str(made.output)!r} + '/x', 'wb'))
    os.unlink(held[-1].name)
    held[-1].write(b'x' * (1 << 20))
    held[-1].flush()
time.sleep(600)
"""
    handle = runtime.start(replace(made, argv=(PYTHON, "-S", "-c", source)), soon())
    end = hear(handle).exit
    assert end is not None
    assert end.cause is StopCause.OUTPUT
    handle.remove()
