"""The death of a keeper: what it leaves is found before its grant is given again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from tasks.errors import KeeperError, RuntimeUnavailable
from tests.integration.keeper.jobs import DAEMON, gone, keeper_of, line, plan, start
from tests.support.runtimes import Places, hear, soon
from tests.support.waiting import wait_until
from worker.devices.leases import LeaseFile, held
from worker.devices.pool import DevicePool
from worker.keeper import client, lock, procfs
from worker.keeper.settle import Settlement, settle
from worker.runtimes.base import Handle, Status
from worker.runtimes.native import NativeRuntime

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="keepers need Linux"),
]


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


def test_a_keeper_that_stands_still_is_as_good_as_dead_after_a_while(
    places: Places, runtime: NativeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or what the job is told, that it shall end above all, would never come to anything."""
    monkeypatch.setattr(client, "DEAF_AFTER", 0.5)
    handle, made = start(runtime, places, "import time; print('up', flush=True); time.sleep(600)")
    assert line(handle) == "up"
    keeper = keeper_of(made)
    [job] = procfs.descendants(keeper)
    os.kill(keeper, signal.SIGSTOP)
    handle.beat(soon())
    assert handle.read(0.1) is None
    os.kill(keeper, signal.SIGCONT)  # soon enough: nothing has happened
    wait_until(lambda: handle.read(0.01) is None and not unread(handle), what="it has heard")
    os.kill(keeper, signal.SIGSTOP)
    handle.stop(grace=0.0)
    with pytest.raises(KeeperError, match="stands still"):
        hear(handle)
    assert not gone(job.pid)
    handle.remove()
    assert gone(keeper)
    assert gone(job.pid)
    assert places.left_behind() == []


def unread(handle: Handle) -> bool:
    """Whether there is something that the keeper has not read."""
    return bool(client._unread(handle._link._connection))  # type: ignore[attr-defined]  # a native one's


GROUP = """
import os, signal, sys
r, w = os.pipe()
if os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.write(w, str(os.getpid()).encode())
    signal.pause()
print(os.getpid(), int(os.read(r, 20)), flush=True)
"""


@pytest.mark.parametrize("stands_still", [False, True])
def test_a_jobs_whole_group_dies_with_its_keeper(
    places: Places, runtime: NativeRuntime, *, stands_still: bool
) -> None:
    handle, made = start(runtime, places, GROUP + "signal.pause()")
    job, child = map(int, line(handle).split())
    if stands_still:
        handle.pause()
        wait_until(lambda: handle.status() is Status.PAUSED, what="it stands still")
    os.kill(keeper_of(made), signal.SIGKILL)
    wait_until(lambda: gone(job) and gone(child), what="both die with the keeper")
    assert settle(made.state).killed == ()
    handle.remove()


def test_a_command_beside_the_job_dies_with_the_keeper_too(
    places: Places, runtime: NativeRuntime
) -> None:
    handle, made = start(runtime, places, "import signal; print('up', flush=True); signal.pause()")
    line(handle)
    hangs = "import os, signal; print(os.getpid(), flush=True); signal.pause()"
    beside = handle.exec([sys.executable, "-S", "-c", hangs])
    while not isinstance(said := beside.read(1), tuple):
        assert said is None
    os.kill(keeper_of(made), signal.SIGKILL)
    wait_until(lambda: gone(int(said[1])), what="the command dies with the keeper")
    beside.close()
    handle.remove()


def test_a_job_that_closes_all_that_it_was_given_is_settled(
    places: Places, runtime: NativeRuntime
) -> None:
    closes = GROUP + "os.closerange(3, 1000); print('closed', flush=True); signal.pause()"
    handle, made = start(runtime, places, closes)
    heard = hear(handle, until=lambda heard: heard.out.count(b"\n") == 2)
    job, child = map(int, heard.out.split()[:2])
    # its child has what it closed, and would keep it tied
    os.kill(child, signal.SIGKILL)
    wait_until(lambda: gone(child), what="its child is dead, and holds nothing")
    os.kill(keeper_of(made), signal.SIGKILL)
    wait_until(lambda: not lock.alive(made.state), what="the keeper is dead")
    settled = settle(made.state)
    assert (settled.outcome, settled.killed) == (Settlement.SETTLED, (job,))
    assert gone(job)
    handle.remove()


def test_a_job_that_has_shed_all_dies_with_its_keeper_where_a_supervisor_has_it(
    places: Places, runtime: NativeRuntime
) -> None:
    """Nothing of what it was given is left to it, by which it could be found afterwards."""
    sheds = (
        "import os, sys; os.closerange(3, 1000); os.execve(sys.executable, [sys.executable, '-S', "
        "'-c', 'import os, signal; print(os.getpid(), flush=True); signal.pause()'], {})"
    )
    handle, made = start(runtime, places, sheds)
    job = int(line(handle))
    for _ in range(2):
        handle.beat(soon())
    os.kill(keeper_of(made), signal.SIGKILL)
    wait_until(lambda: gone(job), what="the job's end")
    assert settle(made.state).killed == ()
    handle.remove()


def test_a_supervisor_that_lets_go_of_a_job_ends_nothing(
    places: Places, runtime: NativeRuntime
) -> None:
    handle, made = start(runtime, places, "import signal; print('up', flush=True); signal.pause()")
    line(handle)
    handle.beat(soon())
    handle.detach()
    [again] = runtime.recover()
    again.beat(soon())
    assert again.status() is Status.RUNNING
    again.detach()
    [again] = runtime.recover()
    assert again.status() is Status.RUNNING
    assert not gone(procfs.descendants(keeper_of(made))[0].pid)
    again.remove()


STRANGER = """
import subprocess, sys, time
for _ in range(4000):
    subprocess.Popen(["/bin/sleep", "60"], env={"CYXWIZ_ATTEMPT_STATE": sys.argv[1]})
    time.sleep(0.005)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a namespace of processes")
def test_what_says_in_a_container_that_it_is_of_the_attempt_keeps_no_grant(
    places: Places, runtime: NativeRuntime
) -> None:
    """As a job in a container may, again and again: with a process for each that is killed."""
    handle, made = start(runtime, places, DAEMON + "print(daemon(), flush=True)\ntime.sleep(600)")
    survivor = int(line(handle))
    os.kill(keeper_of(made), signal.SIGKILL)
    wait_until(lambda: not lock.alive(made.state), what="the keeper is dead")
    namespace = ["unshare", "--pid", "--fork", "--kill-child"]
    stranger = [sys.executable, "-S", "-c", STRANGER, str(made.state.resolve())]
    with subprocess.Popen([*namespace, *stranger], env={"PATH": os.defpath}) as process:
        try:
            wait_until(lambda: len(procfs.below(process.pid)) > 2, what="its processes")
            settled = settle(made.state, timeout=5)
            assert process.poll() is None
        finally:
            process.kill()
    assert settled.outcome is Settlement.SETTLED
    assert survivor in settled.killed
    assert not held(places.leases[0].path)
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
