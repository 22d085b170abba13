"""Jobs that take what harms: the node stays up, the end names the true reason, and nothing is left.

Each runs in a hardened container of each real engine; the `jobs` fixture checks what is left. Where
an engine does not keep the limit on memory, and the operator accepts that, the keeper's measuring
is what a job meets.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.integration.engine.jobs import LIMITS, REFUSED, Jobs, clean_jobs, up
from tests.support.runtimes import hear
from tests.support.waiting import wait_until
from worker.keeper import cgroups
from worker.plan import StopCause
from worker.runtimes.base import Chunk, Status

pytestmark = pytest.mark.integration


@pytest.fixture
def jobs(jobs_of_each_engine: Jobs) -> Jobs:
    return jobs_of_each_engine


@pytest.fixture(params=["docker", pytest.param("podman", marks=pytest.mark.podman)])
def jobs_of_the_hosts_kernel(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Jobs]:
    """`jobs`, for what the host's side alone decides, and gVisor would only take long over."""
    with clean_jobs(tmp_path, request.param) as made:
        yield made


def test_fork_bomb(jobs: Jobs) -> None:
    heard, end = jobs.run(
        "import os, time\nmade = 0\n"
        "try:\n"
        "    while True:\n"
        "        if os.fork() == 0: time.sleep(1000)\n"
        "        made += 1\n"
        "except BlockingIOError: print(made, flush=True); raise SystemExit(9)"
    )
    if jobs.engine == "gvisor":  # its kernel has no more processes than memory: it dies of either
        assert (end.signal, end.code) in ((signal.SIGKILL, None), (None, 2))
        return
    assert end.code == 9
    assert 0 < int(heard.out) <= LIMITS.pids


def test_fork_bomb_that_never_stops_is_ended_by_a_fence(jobs: Jobs) -> None:
    handle = jobs.start(
        "import os\nprint('up', flush=True)\n"
        "while True:\n"
        "    try: os.fork()\n"
        "    except OSError: pass"
    )
    hear(handle, until=up)
    handle.fence()
    end = hear(handle, timeout=30).exit
    assert end is not None
    assert (end.signal, end.cause) == (signal.SIGKILL, StopCause.FENCED)


def test_memory_bomb(jobs: Jobs) -> None:
    _, end = jobs.run("held = []\nwhile True: held.append(bytearray(b'x' * (8 << 20)))")
    cause = None if "memory" in jobs.keeps else StopCause.MEMORY
    if jobs.engine == "gvisor":  # with it go its control groups, mostly before anybody can look
        assert (end.signal, end.cause) == (signal.SIGKILL, None)
        return
    assert (end.signal, end.oom, end.cause) == (signal.SIGKILL, True, cause)
    assert end.max_rss_mb > 0.9 * LIMITS.memory_mb


def test_memory_bomb_in_a_child_that_the_job_survives(jobs: Jobs) -> None:
    heard, end = jobs.run(
        "import os\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    held = []\n"
        "    while True: held.append(bytearray(b'x' * (8 << 20)))\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)"
    )
    if jobs.engine == "gvisor":  # all processes are one kernel's, and that is what is killed
        assert (end.signal, end.cause) == (signal.SIGKILL, None)
        return
    if "memory" not in jobs.keeps:  # the keeper cannot tell which process is too many
        assert (end.signal, end.oom, end.cause) == (signal.SIGKILL, True, StopCause.MEMORY)
        return
    assert heard.out == b"-9\n"
    # the flag alone says nothing of how it ended: it exited with 0
    assert (end.code, end.signal, end.oom) == (0, None, True)


def test_a_killed_job_is_not_out_of_memory(jobs: Jobs) -> None:
    _, end = jobs.run("import os; os.kill(os.getpid(), 9)")
    assert (end.signal, end.oom, end.cause) == (signal.SIGKILL, False, None)


def test_a_line_of_64_megabytes(jobs: Jobs) -> None:
    handle = jobs.start(
        "import os\nleft = 64 << 20\nwhile left: left -= os.write(1, b'x' * min(left, 65536))"
    )
    got = 0
    while isinstance(chunk := handle.read(20), Chunk):
        assert chunk.data.strip(b"x") == b""
        got = chunk.offset + len(chunk.data)
        handle.ack(chunk.stream, got)
    assert got == 64 << 20
    assert handle.status() is Status.EXITED


def test_a_flood_on_both_streams_can_be_stopped(jobs: Jobs) -> None:
    handle = jobs.start(
        "import os\nwhile True: os.write(1, b'o' * 4096 + b'\\n'); os.write(2, b'e' * 4096)"
    )
    hear(handle, until=lambda heard: len(heard.out) + len(heard.err) > 8 << 20)
    handle.stop(1)
    heard = hear(handle, timeout=30)
    assert heard.exit is not None
    assert heard.exit.cause is StopCause.REQUESTED


@pytest.mark.parametrize("where", ["output", "checkpoints"])
def test_fills_a_directory_of_its_own(jobs: Jobs, where: str) -> None:
    _, end = jobs.run(
        f"import time\nfile = open('/job/{where}/big', 'wb')\n"
        "for _ in range(64): file.write(b'x' * (1 << 20)); file.flush()\n"
        "time.sleep(600)"
    )
    assert (end.signal, end.cause) == (signal.SIGKILL, StopCause.OUTPUT)


@pytest.mark.parametrize("shows", [1, 0])
def test_fills_the_disk_with_files_that_have_no_name(jobs: Jobs, shows: int) -> None:
    """``shows``: whether it lets processes of its own user see what it has open."""
    _, end = jobs.run(
        "import ctypes, os, time\n"
        f"ctypes.CDLL(None).prctl(4, {shows}, 0, 0, 0)\n"
        "held = []\n"
        "for _ in range(4):\n"
        "    held.append(open('/job/checkpoints/x', 'wb'))\n"
        "    os.unlink('/job/checkpoints/x')\n"
        "    for _ in range(8): held[-1].write(b'x' * (1 << 20))\n"
        "    held[-1].flush()\n"
        "time.sleep(600)"
    )
    assert (end.signal, end.cause) == (signal.SIGKILL, StopCause.OUTPUT)


def test_a_file_larger_than_there_is_room_for(jobs: Jobs) -> None:
    heard, _ = jobs.run(
        "import os\n" + REFUSED + "for at in ('/job/output', '/tmp', '/dev/shm'):\n"
        "    refused(at, lambda: open(at + '/x', 'wb').truncate(1 << 40))\n"
        "refused('memory', lambda: os.truncate(os.memfd_create('x'), 1 << 40))"
    )
    assert b"DONE" not in heard.out
    assert heard.out.count(b"refused") == 4


def test_a_hundred_thousand_files(jobs_of_the_hosts_kernel: Jobs) -> None:
    jobs = jobs_of_the_hosts_kernel
    _, end = jobs.run(
        "import os, time\nos.chdir('/job/output')\n"
        "for i in range(100001): os.close(os.open(str(i), os.O_CREAT))\ntime.sleep(600)"
    )
    assert (end.signal, end.cause) == (signal.SIGKILL, StopCause.OUTPUT)


@pytest.mark.parametrize("place", ["/tmp", "/dev/shm"])
def test_fills_a_file_system_in_memory(jobs: Jobs, place: str) -> None:
    heard, end = jobs.run(
        f"file = open('{place}/big', 'wb', buffering=0)\n"
        "done = 0\n"
        "try:\n"
        "    while True: done += file.write(b'x' * (1 << 20))\n"
        "except OSError as error: print(error.errno, done >> 20)"
    )
    errno, mebibytes = map(int, heard.out.split())
    assert errno == 28
    assert mebibytes == (64 if place == "/tmp" else LIMITS.shm_size_mb)
    assert end.code == 0


def test_kills_the_first_process(jobs: Jobs) -> None:
    heard, end = jobs.run(
        "import os, signal\n"
        "for number in (9, 19): os.kill(1, number)\n"
        "print('alive')\n"
        "try: os.kill(-1, 9)\n"
        "except ProcessLookupError: print('nobody else')"
    )
    if jobs.engine == "gvisor":  # which does not protect it: the job has ended itself
        assert end.signal == signal.SIGKILL
        return
    assert heard.out == b"alive\nnobody else\n"
    assert end.code == 0


def test_traces_the_first_process_and_so_hangs(jobs: Jobs) -> None:
    """It may: both are its own. The container's init stands still, and its end must not."""
    handle = jobs.start(
        "import ctypes\nprint('traced', ctypes.CDLL(None).ptrace(16, 1, 0, 0), flush=True)"
    )
    hear(handle, until=lambda heard: b"traced" in heard.out)
    handle.stop(0.5)
    end = hear(handle, timeout=20).exit
    assert end is not None
    assert end.cause is StopCause.REQUESTED


def test_ignores_sigterm_in_every_process(jobs: Jobs) -> None:
    handle = jobs.start(
        "import os, signal\nsignal.signal(15, signal.SIG_IGN)\n"
        "for _ in range(3): os.fork()\n"
        "print('up', flush=True)\nwhile True: signal.pause()"
    )
    hear(handle, until=up)
    handle.stop(0.3)
    end = hear(handle, timeout=20).exit
    assert end is not None
    assert (end.signal, end.cause) == (signal.SIGKILL, StopCause.REQUESTED)


def test_leaves_a_daemon(jobs: Jobs) -> None:
    mark = f"daemon of {jobs.places.root}"  # no other test's, and no other run's
    _, end = jobs.run(
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(600)\n# " + mark
    )
    assert end.code == 0
    wait_until(lambda: not _processes(mark.encode()), what="the daemon is dead")


def _processes(mark: bytes) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark in (entry / "cmdline").read_bytes():
                found.append(entry.name)
        except OSError:
            continue
    return found


def test_uses_no_more_cpus_than_it_may(jobs_of_the_hosts_kernel: Jobs) -> None:
    """By a quota; or, where nothing keeps one, on so many CPUs and no choice of them."""
    jobs = jobs_of_the_hosts_kernel
    heard, _ = jobs.run(
        "import os, time\n" + REFUSED + "until = time.time() + 5\n"
        "while len(os.sched_getaffinity(0)) > 1 and time.time() < until: time.sleep(0.01)\n"
        "refused('cpus', lambda: os.sched_setaffinity(0, range(64)))\n"
        "print(len(os.sched_getaffinity(0)))"
    )
    if jobs.engine == "podman":
        assert heard.out == b"refused cpus PermissionError\n1\n"
    else:
        assert "cpu" in jobs.keeps


def test_is_held_back_where_it_would_use_more_than_its_share(jobs: Jobs) -> None:
    """Two processes that compute without end, with half a CPU: the kernel itself counts how often
    it made them wait, and what they got."""
    if "cpu" not in jobs.keeps or jobs.runtime.making.shortfall().ignored:
        pytest.skip("no quota is kept on this host: the test above shows what is done instead")
    handle = jobs.start(
        "import os\nos.fork()\nprint('up', flush=True)\nwhile True: pass",
        limits=replace(LIMITS, cpu_cores=0.5),
    )
    hear(handle, until=up)
    groups = cgroups.groups(handle._kept._link.job_pid)
    place = groups.get("cpu", groups.get(cgroups.V2))
    meter = cgroups.Meter(groups)

    def counted() -> tuple[int, float]:
        meter.look()
        return cgroups.words(place, "cpu.stat")["nr_periods"], meter.cpu_seconds

    first, before = counted()
    wait_until(lambda: counted()[0] >= first + 20, timeout=60, what="twenty periods")
    last, after = counted()
    assert cgroups.words(place, "cpu.stat")["nr_throttled"] > 0
    # a period is a tenth of a second, of which it may use half; and one more was begun
    assert after - before <= 0.05 * (last - first + 2) * 1.2
    handle.fence()
    hear(handle, timeout=30)
