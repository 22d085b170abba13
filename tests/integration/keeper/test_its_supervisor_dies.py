"""The keeper against the death, or the standstill, of who started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.keeper.jobs import gone, keeper_of, line, start
from tests.support.guard import REPO
from tests.support.runtimes import Places, hear
from tests.support.waiting import wait_until
from worker.keeper import lock, procfs
from worker.runtimes.base import Status, Stream
from worker.runtimes.native import NativeRuntime

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="keepers need Linux"),
]


SUPERVISOR = """
import sys, time
from pathlib import Path
from tests.support.guard import REPO
from tests.support.runtimes import Places, PYTHON
from worker.plan import Limits
from worker.runtimes.native import NativeRuntime
places = Places(Path(sys.argv[1]))
runtime = NativeRuntime(state_root=places.state, abandon_after=30)
plan = places.plan((PYTHON, "-S", "-c", sys.argv[2]), Limits())
handle = runtime.start(plan, time.monotonic() + float(sys.argv[3]))
seen = 0
while True:
    chunk = handle.read(1)
    if chunk is not None:
        seen = chunk.offset + len(chunk.data)
        handle.ack(chunk.stream, seen)
        print(seen, plan.state, flush=True)
    if sys.argv[3] != "60": handle.beat(time.monotonic() + float(sys.argv[3]))
"""


def supervise(places: Places, source: str, deadline: str = "60") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, str(places.root), source, deadline],
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPO,
    )


def test_the_job_outlives_its_supervisor_and_loses_no_byte(
    places: Places, runtime: NativeRuntime
) -> None:
    go = places.root / "go"
    source = (
        "import os, time\n"
        "for i in range(2000): print('%06d' % i, flush=True)\n"
        f"while not os.path.exists({str(go)!r}): time.sleep(0.005)\n"
        "for i in range(2000, 50000): print('%06d' % i)\n"
    )
    supervisor = supervise(places, source)
    assert supervisor.stdout is not None
    seen = 0
    while seen < 2000 * 7:
        seen, state = int((words := supervisor.stdout.readline().split())[0]), words[1]
    supervisor.kill()
    supervisor.wait()
    supervisor.stdout.close()
    assert lock.alive(Path(state))
    go.touch()
    [handle] = runtime.recover()
    rest = hear(handle)
    whole = b"".join(b"%06d\n" % i for i in range(50_000))
    assert rest.first[Stream.STDOUT] <= seen
    assert whole[rest.first[Stream.STDOUT] :] == rest.out
    assert rest.exit is not None
    assert rest.exit.code == 0
    handle.remove()
    assert not Path(state).exists()


def test_a_frozen_supervisor_lets_the_deadline_pass(places: Places, runtime: NativeRuntime) -> None:
    source = "import os, signal; print(os.getpid(), flush=True); signal.pause()"
    supervisor = supervise(places, source, "1.5")
    try:
        assert supervisor.stdout is not None
        _, state = supervisor.stdout.readline().split()
        record = lock.read(Path(state))
        assert record is not None
        supervisor.send_signal(signal.SIGSTOP)
        [job] = procfs.descendants(record.pid)

        def stopped() -> bool:
            entry = procfs.process(job.pid)
            return entry is not None and entry.stopped

        assert not stopped()
        wait_until(stopped, timeout=10, what="the job is paused")
        supervisor.send_signal(signal.SIGCONT)
        wait_until(lambda: not stopped(), timeout=10, what="the job goes on after the next beat")
    finally:
        supervisor.kill()
        supervisor.wait()
        assert supervisor.stdout is not None
        supervisor.stdout.close()


def test_the_zygote_ends_with_its_owner_and_its_keepers_do_not(places: Places) -> None:
    supervisor = supervise(places, "import signal; print('up', flush=True); signal.pause()")
    assert supervisor.stdout is not None
    _, state = supervisor.stdout.readline().split()
    record = lock.read(Path(state))
    assert record is not None
    entry = procfs.process(record.pid)
    assert entry is not None
    zygote = entry.parent
    supervisor.kill()
    supervisor.wait()
    # nothing of it holds the supervisor's pipes either: they are at their end
    assert supervisor.stdout.read() == ""
    supervisor.stdout.close()
    wait_until(lambda: gone(zygote), what="the zygote ends")
    assert not gone(record.pid)
    runtime = NativeRuntime(state_root=places.state, abandon_after=30)
    [handle] = runtime.recover()
    handle.remove()
    assert gone(record.pid)


def test_a_killed_zygote_is_replaced(places: Places, runtime: NativeRuntime) -> None:
    runtime.prepare(None, lambda _: None)
    first, made = start(runtime, places, "import signal; print('up', flush=True); signal.pause()")
    line(first)
    entry = procfs.process(keeper_of(made))
    assert entry is not None
    os.kill(entry.parent, signal.SIGKILL)
    wait_until(lambda: gone(entry.parent), what="the zygote is dead")
    second, _ = start(runtime, places, "print('up')")
    assert line(second) == "up"
    assert first.status() is Status.RUNNING
    second.remove()
    first.remove()
