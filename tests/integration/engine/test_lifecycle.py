"""Deaths and returns: of keepers, of the engine; what is kept, and what is swept away."""

from __future__ import annotations

import itertools
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest

from tests.integration.engine.jobs import Jobs, up
from tests.support import dockerd, engine
from tests.support.guard import REPO
from tests.support.runtimes import ABANDON_AFTER, hear, soon
from tests.support.waiting import wait_until
from worker.keeper import lock
from worker.keeper.settle import Settlement, settle
from worker.plan import StopCause
from worker.runtimes.engine.client import EngineClient
from worker.runtimes.engine.dialect import DOCKER
from worker.runtimes.engine.errors import EngineMissing
from worker.runtimes.engine.handle import EngineHandle
from worker.runtimes.engine.manager import ContainerManager, ContainerStatus
from worker.sandbox.profile import Profile

pytestmark = pytest.mark.integration

WAITS = "import signal; print('up', flush=True); signal.pause()"
COUNTS = (
    "import os, time\n"
    "for i in range(100000):\n"
    "    print(i, flush=True)\n"
    "    time.sleep(0.002)\n"
    "    if os.path.exists('/job/output/stop'): break\n"
    "print(i + 1, flush=True)\n"
    "open('/job/output/last', 'w').write(str(i + 1))"
)


def test_a_killed_keeper_takes_its_container_with_it(jobs: Jobs, raw: docker.APIClient) -> None:
    handle = jobs.start(WAITS)
    hear(handle, until=up)
    [name] = jobs.containers()
    state = jobs.places.state / "attempts" / str(handle.attempt)
    record = lock.read(state)
    assert record is not None
    os.kill(record.pid, signal.SIGKILL)
    wait_until(
        lambda: not raw.inspect_container(name)["State"]["Running"], what="the container is dead"
    )
    wait_until(lambda: not jobs.places.leases_held(), what="its leases are free")
    assert settle(state).outcome is Settlement.SETTLED
    assert jobs.containers() == []


def test_settle_ends_a_container_whose_keeper_and_mourner_are_dead(jobs: Jobs) -> None:
    handle = jobs.start(WAITS)
    hear(handle, until=up)
    state = jobs.places.state / "attempts" / str(handle.attempt)
    record = lock.read(state)
    assert record is not None
    below = Path(f"/proc/{record.pid}/task/{record.pid}/children").read_text().split()
    for pid in (*map(int, below), record.pid):  # the mourner first: it would do its work
        os.kill(pid, signal.SIGKILL)
    assert len(jobs.containers()) == 1
    wait_until(lambda: not lock.alive(state), what="the keeper is dead")
    assert settle(state).outcome is Settlement.SETTLED
    assert jobs.containers() == []


def test_a_slot_worker_that_is_killed_leaves_a_kept_attempt(jobs: Jobs) -> None:
    """Its keeper goes on, and a successor finds all of it: until nobody comes for too long."""
    source = (
        "import sys, os, time\nfrom pathlib import Path\n"
        "from tests.integration.engine.jobs import Jobs\n"
        "jobs = Jobs(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        f"jobs.start({COUNTS!r})\nos.kill(os.getpid(), 9)"
    )
    root, socket = str(jobs.places.root), str(jobs.socket)
    ran = subprocess.run([sys.executable, "-c", source, root, socket], cwd=REPO)
    assert ran.returncode == -signal.SIGKILL
    [handle] = jobs.runtime.recover()
    heard = hear(handle, until=lambda heard: len(heard.out) > 500)
    assert heard.out.startswith(b"0\n1\n2\n")
    handle.beat(soon(ABANDON_AFTER))  # until its deadline a keeper expects somebody
    handle.detach()
    state = jobs.places.state / "attempts" / str(handle.attempt)
    wait_until(lambda: not lock.alive(state), timeout=20, what="the keeper has given up")
    [name] = jobs.containers()
    assert jobs.runtime.manager.status(name) is ContainerStatus.EXITED
    assert settle(state).outcome is Settlement.SETTLED


@pytest.fixture
def own_engine() -> Iterator[dockerd.Dockerd]:
    """An engine for this test alone, which it may kill."""
    engine.require()
    with dockerd.Dockerd(options=["--live-restore"], own_containerd=True) as started:
        engine.import_base(started.socket)
        yield started


@pytest.mark.parametrize("ends", ["after", "meanwhile"])
def test_the_engine_goes_and_comes_back(
    own_engine: dockerd.Dockerd, tmp_path: Path, ends: str
) -> None:
    """Its containers live on: so does the job. No line of it comes twice; and none is lost, but
    those that an engine had in hand that is killed, and the last before an end without an engine.

    ``ends``: whether the job does after the engine's last return, or before that.
    """
    jobs = Jobs(tmp_path, own_engine.socket)
    handle = jobs.start(COUNTS)
    output = tmp_path / "output" / str(handle.attempt)
    said = hear(handle, until=lambda heard: len(heard.out) > 400).out
    for go in (own_engine.stop, own_engine.kill):
        go()
        own_engine.start()
        said += hear(handle, until=lambda heard: len(heard.out) > 400, timeout=60).out
        if go == own_engine.stop:
            whole = said.count(b"\n")
            assert said.split(b"\n")[:whole] == [b"%d" % n for n in range(whole)]
    if ends == "meanwhile":
        own_engine.stop()
    process = os.pidfd_open(_first_process(handle))
    (output / "stop").touch()
    assert select.select([process], [], [], 20)[0], "the job does not end"
    os.close(process)
    own_engine.start()
    rest = hear(handle, timeout=60)
    lines = [int(line) for line in (said + rest.out).split(b"\n")[:-1]]
    printed = int((output / "last").read_text())
    assert lines[-1] == printed if ends == "after" else lines[-1] <= printed
    gaps = [(one, other) for one, other in itertools.pairwise(lines) if other != one + 1]
    assert len(gaps) <= 1
    assert all(other > one >= whole - 1 for one, other in gaps)
    assert rest.exit is not None
    assert rest.exit.code == 0 or rest.exit.cause is StopCause.ENGINE
    jobs.close()
    assert jobs.containers() == []


def test_an_engine_that_ends_its_containers_is_to_blame(
    own_engine: dockerd.Dockerd, tmp_path: Path
) -> None:
    jobs = Jobs(tmp_path, own_engine.socket)
    handle = jobs.start(WAITS)
    hear(handle, until=up)
    own_engine.kill()
    os.kill(_first_process(handle), signal.SIGKILL)
    own_engine.start()
    heard = hear(handle, timeout=60)
    assert heard.exit is not None
    assert heard.exit.cause is StopCause.ENGINE
    jobs.close()


def test_a_fence_needs_no_engine(own_engine: dockerd.Dockerd, tmp_path: Path) -> None:
    """The lease is somebody else's: the job must not run on until the engine is back."""
    jobs = Jobs(tmp_path, own_engine.socket)
    handle = jobs.start(WAITS)
    hear(handle, until=up)
    own_engine.kill()
    process = os.pidfd_open(_first_process(handle))
    handle.fence()
    assert select.select([process], [], [], 10)[0], "the job is not dead"
    os.close(process)
    own_engine.start()
    heard = hear(handle, timeout=60)
    assert heard.exit is not None
    assert heard.exit.cause is StopCause.FENCED
    jobs.close()


@pytest.fixture
def hanging(own_engine: dockerd.Dockerd) -> Iterator[Callable[[], None]]:
    """Makes the engine hang: its socket takes connections, and nothing answers. Mended at the
    end."""
    assert own_engine.process is not None
    pid = own_engine.process.pid
    yield lambda: os.kill(pid, signal.SIGSTOP)
    os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("who", ["fence", "mourner"])
def test_an_engine_that_hangs_keeps_nothing_alive(
    own_engine: dockerd.Dockerd, tmp_path: Path, hanging: Callable[[], None], who: str
) -> None:
    jobs = Jobs(tmp_path, own_engine.socket)
    handle = jobs.start(WAITS)
    hear(handle, until=up)
    process = os.pidfd_open(_first_process(handle))
    hanging()
    if who == "fence":
        handle.fence()
    else:
        record = lock.read(jobs.places.state / "attempts" / str(handle.attempt))
        assert record is not None
        os.kill(record.pid, signal.SIGKILL)
    assert select.select([process], [], [], 10)[0], "the job is not dead"
    os.close(process)
    assert own_engine.process is not None
    os.kill(own_engine.process.pid, signal.SIGCONT)
    if who == "fence":
        end = hear(handle, timeout=60).exit
        assert end is not None
        assert end.cause is StopCause.FENCED
    jobs.close()


def _first_process(handle: EngineHandle) -> int:
    """On the host."""
    return handle._kept._link.job_pid


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: None, "no such socket"),
        (lambda path: path.write_text("not a socket"), "not running"),
    ],
)
def test_no_engine(jobs: Jobs, tmp_path: Path, make, why: str) -> None:  # type: ignore[no-untyped-def]  # of the cases above
    path = tmp_path / "docker.sock"
    make(path)
    manager = ContainerManager(EngineClient(path, DOCKER))
    found = manager.available()
    assert not found.available
    assert why in found.reason
    assert str(path) in found.reason
    with pytest.raises(EngineMissing, match=why):
        manager.info()


def test_a_socket_without_permission(socket: Path) -> None:
    source = (
        "import os, sys; os.setgroups([]); os.setgid(1001); os.setuid(1001)\n"
        "from pathlib import Path\n"
        "from worker.runtimes.engine.client import EngineClient\n"
        "from worker.runtimes.engine.dialect import DOCKER\n"
        "from worker.runtimes.engine.manager import ContainerManager\n"
        "print(ContainerManager(EngineClient(Path(sys.argv[1]), DOCKER)).available().reason)"
    )
    preload = (
        "import docker, worker.runtimes.engine.manager, worker.runtimes.engine.dialect\n" + source
    )
    ran = subprocess.run(
        [sys.executable, "-c", preload, str(socket)],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "user 1001 may not use it" in ran.stdout
    assert "usermod -aG docker" in ran.stdout


def test_another_program_at_the_socket_is_no_engine(tmp_path: Path) -> None:
    from tests.support.redis_server import RedisServer, redis_binary

    if redis_binary() is None:
        pytest.skip("needs a redis-server to stand there")
    with RedisServer() as other:
        found = ContainerManager(EngineClient(other.socket, DOCKER)).available()
    assert not found.available
    assert "no container engine" in found.reason


def test_output_is_kept_for_some_hours_and_then_deleted(jobs: Jobs) -> None:
    handle = jobs.start("import sys; print('out'); print('err', file=sys.stderr)")
    hear(handle)
    handle.remove()
    [kept] = (jobs.places.state / "job-logs").iterdir()
    assert kept.name == f"{handle.attempt}.log"
    assert sorted(kept.read_bytes().split()) == [b"err", b"out"]
    assert kept.stat().st_mode & 0o077 == 0
    jobs.runtime.sweep(time.time() + 23 * 3600)
    assert kept.exists()
    jobs.runtime.sweep(time.time() + 25 * 3600)
    assert not kept.exists()


def test_keep_logs_hours_0_keeps_none(jobs: Jobs) -> None:
    handle = jobs.start("print('out')", runtime=jobs.another(keep_logs_hours=0))
    hear(handle)
    handle.remove()
    assert not (jobs.places.state / "job-logs").exists()


def test_what_is_kept_of_a_flood_is_bounded(jobs: Jobs) -> None:
    handle = jobs.start("import os\nfor _ in range(900): os.write(1, b'x' * 65535 + b'\\n')")
    assert len(hear(handle, timeout=60).out) == 900 * 65536
    handle.remove()
    [kept] = (jobs.places.state / "job-logs").iterdir()
    assert 8 << 20 < kept.stat().st_size <= 33 << 20


def test_remove_containers_false_leaves_them_stopped_until_they_are_old(jobs: Jobs) -> None:
    runtime = jobs.another(remove_containers=False, profile=Profile(tmp_mb=64))
    handle = jobs.start("print('out')", runtime=runtime)
    hear(handle)
    handle.remove()
    [name] = jobs.containers()
    assert runtime.manager.status(name) is ContainerStatus.EXITED
    assert runtime.sweep(time.time() + 23 * 3600) == []
    assert runtime.sweep(time.time() + 25 * 3600) == [name.lstrip("/")]
    assert jobs.containers() == []


def test_sweep_ends_orphans_of_this_node_and_touches_no_others(
    jobs: Jobs, raw: docker.APIClient
) -> None:
    state = jobs.places.state / "attempts"
    handle = jobs.start(WAITS)
    made = {}
    dead = jobs.places.state / "probes" / "1-1"  # its process died with the engine
    (dead / "attempts" / "probe~1").mkdir(parents=True)
    for name, node, place in (
        ("orphan", "test-node", state / "gone~1"),
        ("other", "another-node", state / "gone~2"),
        ("elsewhere", "test-node", Path("/nowhere/attempts/gone~1")),
        ("probed", "test-node", dead / "attempts" / "probe~1"),
    ):
        labels = {"org.cyxwiz.node": node, "org.cyxwiz.state": str(place)}
        made[name] = raw.create_container(engine.BASE, ["true"], labels=labels, name=name)["Id"]
    try:
        assert jobs.runtime.sweep() == [], "just made: it may be about to be started"
        assert sorted(jobs.runtime.sweep(time.time() + 120)) == ["orphan", "probed"]
        assert not dead.exists()
        assert handle.status().value == "running"
    finally:
        for one in ("other", "elsewhere", "orphan", "probed"):
            if jobs.runtime.manager.status(one) is not ContainerStatus.MISSING:
                raw.remove_container(one, force=True)


def test_starting_needs_the_deadlines_lease_and_a_late_one_is_paused(jobs: Jobs) -> None:
    """A start that takes longer than the lease holds: the job does not run on without one."""
    handle = jobs.runtime.start(jobs.plan(WAITS), soon(0.001))
    jobs.places.release()
    wait_until(lambda: handle.status().value == "paused", what="paused")
    handle.beat(soon())
    wait_until(lambda: handle.status().value == "running", what="running")
    handle.remove()
