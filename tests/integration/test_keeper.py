"""The keeper against real deaths: of the supervisor, of itself, of what the job leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.errors import KeeperError, RuntimeUnavailable
from tests.support.runtimes import PYTHON, Places, hear, soon
from tests.support.waiting import wait_until
from worker.devices.leases import LeaseFile, held
from worker.devices.pool import DevicePool
from worker.keeper import lock, procfs
from worker.keeper.settle import Settlement, settle
from worker.plan import LaunchPlan, Limits, StopCause
from worker.runtimes.base import Handle, Status, Stream
from worker.runtimes.native import NativeRuntime

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="keepers need Linux"),
]

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


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Places]:
    made = Places(tmp_path)
    yield made
    made.release()
    for directory in (tmp_path / "state" / "attempts").glob("*"):
        settle(directory)


@pytest.fixture
def runtime(places: Places) -> Iterator[NativeRuntime]:
    made = NativeRuntime(state_root=places.state, abandon_after=30)
    yield made
    for handle in made.recover():
        handle.remove()
    made.close()


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


# --- the supervisor dies

SUPERVISOR = """
import sys, time
from pathlib import Path
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
        cwd=Path(__file__).resolve().parents[2],
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


# --- the keeper dies


@pytest.mark.parametrize("arguments", ["", "scrub=True", "close=True"])
def test_a_dead_keepers_daemon_is_found_before_the_next_grant(
    places: Places, runtime: NativeRuntime, arguments: str
) -> None:
    handle, made = start(
        runtime, places, DAEMON + f"print(daemon({arguments}), flush=True)\ntime.sleep(600)"
    )
    survivor = int(line(handle))
    lease = places.leases[0].path
    [job] = [p for p in procfs.descendants(keeper_of(made)) if p.pid != survivor]
    os.kill(keeper_of(made), signal.SIGKILL)
    wait_until(lambda: gone(job.pid), what="the job dies with its keeper")
    with pytest.raises(KeeperError, match="keeper"):
        hear(handle)
    assert handle.status() is Status.GONE
    with pytest.raises(KeeperError):
        handle.beat(soon())
    assert not gone(survivor)
    if "close" not in arguments:
        name = lease.name.removesuffix(".lease")
        assert LeaseFile.acquire(lease.parent, name, {}) is None
    settled = settle(made.state)
    assert settled.outcome is Settlement.SETTLED
    assert settled.killed == (survivor,)
    assert gone(survivor)
    assert not held(lease)
    assert places.left_behind() == []
    assert settle(made.state).outcome is Settlement.SETTLED
    handle.remove()


def test_remove_settles_what_a_dead_keeper_left(places: Places, runtime: NativeRuntime) -> None:
    handle, made = start(runtime, places, DAEMON + "print(daemon(), flush=True)\ntime.sleep(600)")
    survivor = int(line(handle))
    os.kill(keeper_of(made), signal.SIGKILL)
    handle.remove()
    assert gone(survivor)
    assert places.left_behind() == []


def test_settle_leaves_a_living_attempt_alone(places: Places, runtime: NativeRuntime) -> None:
    handle, made = start(runtime, places, "print('up', flush=True); import time; time.sleep(600)")
    line(handle)
    assert settle(made.state).outcome is Settlement.ALIVE
    assert handle.status() is Status.RUNNING
    handle.remove()


def test_a_slot_is_granted_only_after_its_dead_keeper_is_settled(
    places: Places, runtime: NativeRuntime
) -> None:
    pool = DevicePool(leases=places.root / "leases", attempts=places.state / "attempts")
    made = plan(places, DAEMON + "print(daemon(), flush=True)\ntime.sleep(600)")
    with pool.grant_cpu("cpu0") as held_grant:
        assert held_grant.grant.env["CUDA_VISIBLE_DEVICES"] == ""
        with pytest.raises(RuntimeUnavailable, match="cpu0 is held"):
            pool.grant_cpu("cpu0")
        handle = runtime.start(replace(made, grant=held_grant.grant), soon())
    survivor = int(line(handle))
    with pytest.raises(RuntimeUnavailable, match="cpu0 is held"):
        pool.grant_cpu("cpu0")
    os.kill(keeper_of(made), signal.SIGKILL)
    wait_until(lambda: not lock.alive(made.state), what="the keeper is dead")
    with pool.grant_cpu("cpu0"):
        assert gone(survivor)
    handle.remove()


# --- what the job leaves, and what it takes


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


def test_what_a_job_is_given(places: Places, runtime: NativeRuntime) -> None:
    source = """
    import json, os, resource
    status = dict(l.split(':', 1) for l in open('/proc/self/status').read().splitlines())
    print(json.dumps({
        'env': dict(os.environ), 'cwd': os.getcwd(), 'umask': status['Umask'].strip(),
        'fds': sorted(set(os.listdir('/proc/self/fd'))), 'nnp': status['NoNewPrivs'].strip(),
        'ignored': status['SigIgn'].strip(), 'blocked': status['SigBlk'].strip(),
        'core': resource.getrlimit(resource.RLIMIT_CORE)[1],
        'nofile': resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        'fsize': resource.getrlimit(resource.RLIMIT_FSIZE)[0],
        'cpus': len(os.sched_getaffinity(0)), 'stdin': os.readlink('/proc/self/fd/0'),
        'oom': int(open('/proc/self/oom_score_adj').read()), 'sid': os.getsid(0) == os.getpid(),
    }))
    """
    limits = Limits(nofile=123, output_mb=3, cpu_cores=0.5)
    handle, made = start(runtime, places, source, limits)
    seen = json.loads(line(handle))
    marker = {"CYXWIZ_ATTEMPT": str(made.attempt), "CYXWIZ_ATTEMPT_STATE": str(made.state)}
    environment = {k: v for k, v in seen["env"].items() if k != "LC_CTYPE"}  # Python's own
    assert environment == dict(made.env) | marker
    assert seen["cwd"] == str(made.scratch)
    assert seen["umask"] == "0077"
    # the three streams, the lease, and the descriptor that lists them
    assert len(seen["fds"]) == 5
    assert seen["nnp"] == "1"
    assert int(seen["blocked"], 16) == 0
    python_ignores = (1 << signal.SIGPIPE - 1) | (1 << signal.SIGXFSZ - 1)
    # 32 and 33 are the C library's own, which no program can set; make starts its children with
    # them ignored
    libc = (1 << 32 - 1) | (1 << 33 - 1)
    assert int(seen["ignored"], 16) & ~libc == python_ignores
    assert (seen["core"], seen["nofile"], seen["fsize"]) == (0, 123, 4 << 20)
    assert seen["cpus"] == 1
    assert seen["stdin"] == "/dev/null"
    assert seen["oom"] == 500
    assert seen["sid"]
    hear(handle)
    handle.remove()


def test_a_path_longer_than_a_sockets(places: Places) -> None:
    deep = Places(places.root / ("d" * 60) / ("e" * 60))
    runtime = NativeRuntime(state_root=deep.state, abandon_after=30)
    made = plan(deep, "import time; print('up', flush=True); time.sleep(600)")
    handle = runtime.start(made, soon())
    deep.release()
    line(handle)
    handle.detach()
    [again] = runtime.recover()
    again.remove()
    assert deep.left_behind() == []
    runtime.close()


def test_a_big_configuration_reaches_the_job(places: Places, runtime: NativeRuntime) -> None:
    made = plan(places, "import os; print(sum(map(len, os.environ.values())))")
    env = dict(made.env) | {f"PART_{i}": "x" * 100_000 for i in range(8)}
    handle = runtime.start(replace(made, env=env), soon())
    assert int(line(handle)) > 800_000
    hear(handle)
    handle.remove()


def test_start_that_fails_leaves_nothing(places: Places, runtime: NativeRuntime) -> None:
    made = plan(places, "")
    with pytest.raises(RuntimeUnavailable, match="attempts"):
        runtime.start(replace(made, state=places.root / "elsewhere"), soon())
    never_opened = 9999
    with pytest.raises(RuntimeUnavailable):
        runtime.start(replace(made, grant=replace(made.grant, fds=(never_opened,))), soon())
    assert places.left_behind() == []


def test_a_supervisor_that_does_not_read_does_not_block_the_keeper(
    places: Places, runtime: NativeRuntime
) -> None:
    source = "import sys\nwhile True: sys.stdout.write('x' * 65536); sys.stderr.write('y' * 65536)"
    handle, made = start(runtime, places, source)
    # what it sends is never read nor acknowledged, and verbs get through all the same
    began = time.monotonic()
    handle.pause()
    wait_until(lambda: handle.status() is Status.PAUSED, timeout=5, what="paused")
    handle.fence()
    assert time.monotonic() - began < 5
    wait_until(lambda: procfs.descendants(keeper_of(made)) == [], what="all are dead")
    handle.remove()
