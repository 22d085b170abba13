"""What a job is given, and what a start that fails leaves."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tasks.errors import RuntimeUnavailable
from tests.integration.keeper.jobs import keeper_of, line, plan, start
from tests.support.runtimes import Places, hear, soon
from tests.support.waiting import wait_until
from worker.keeper import procfs
from worker.keeper.zygote import Zygote
from worker.plan import Limits
from worker.runtimes.base import Status
from worker.runtimes.native import NativeRuntime

if TYPE_CHECKING:
    from worker.keeper.protocol import Spec

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="keepers need Linux"),
]


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
    limits = Limits(nofile=1234, output_mb=3, cpu_cores=0.5)
    handle, made = start(runtime, places, source, limits)
    seen = json.loads(line(handle))
    marker = {"CYXWIZ_ATTEMPT": str(made.attempt), "CYXWIZ_ATTEMPT_STATE": str(made.state)}
    environment = {k: v for k, v in seen["env"].items() if k != "LC_CTYPE"}  # Python's own
    assert environment == dict(made.env) | marker
    assert seen["cwd"] == str(made.scratch)
    assert seen["umask"] == "0077"
    # the three streams, the lease, its tether, and the descriptor that lists them
    assert len(seen["fds"]) == 6
    assert seen["nnp"] == "1"
    assert int(seen["blocked"], 16) == 0
    python_ignores = (1 << signal.SIGPIPE - 1) | (1 << signal.SIGXFSZ - 1)
    # 32 and 33 are the C library's own, which no program can set; make starts its children with
    # them ignored
    libc = (1 << 32 - 1) | (1 << 33 - 1)
    assert int(seen["ignored"], 16) & ~libc == python_ignores
    assert (seen["core"], seen["nofile"], seen["fsize"]) == (0, 1234, 4 << 20)
    assert seen["cpus"] == 1
    assert seen["stdin"] == "/dev/null"
    assert seen["oom"] == 500
    assert seen["sid"]
    hear(handle)
    handle.remove()


def test_fewer_descriptors_than_the_keeper_has(places: Places, runtime: NativeRuntime) -> None:
    source = """
    import resource, time
    while resource.getrlimit(resource.RLIMIT_NOFILE) != (10, 10):
        time.sleep(0.01)
    print('so few')
    """
    handle, _ = start(runtime, places, source, Limits(nofile=10))
    assert line(handle) == "so few"
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


class GivesUp(Zygote):
    """Whoever asks for a keeper here does not wait for it."""

    def spawn(self, spec: Spec, lock: int, leases: Sequence[int]) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.close()
        super().spawn(spec, lock, leases).close()
        return ours


def test_a_start_that_is_given_up_leaves_no_job(places: Places) -> None:
    with GivesUp() as zygote:
        runtime = NativeRuntime(state_root=places.state, abandon_after=30, zygote=zygote)
        made = plan(places, "import time; time.sleep(600)")
        with pytest.raises(RuntimeUnavailable, match="was not started"):
            runtime.start(made, soon())
        assert places.left_behind() == []
        places.release()
        assert places.leases_held() == []


def test_a_command_beside_the_job_leaves_its_limits_alone(
    places: Places, runtime: NativeRuntime
) -> None:
    source = """
    import resource, signal
    resource.setrlimit(resource.RLIMIT_NOFILE, (99, 99))
    print('up', flush=True)
    def tell(*_):
        print(resource.getrlimit(resource.RLIMIT_NOFILE), flush=True)
    signal.signal(signal.SIGUSR1, tell)
    while True:
        signal.pause()
    """
    handle, _ = start(runtime, places, source, Limits(nofile=1000))
    line(handle)
    beside = handle.exec(["sh", "-c", "ulimit -n"])
    heard = []
    while not isinstance(said := beside.read(1), int):
        if isinstance(said, tuple):
            heard.append(said[1])
    assert (said, b"".join(heard)) == (0, b"1000\n")
    handle.signal(signal.SIGUSR1)
    heard_of = hear(handle, until=lambda heard: b")" in heard.out)
    assert heard_of.out.endswith(b"(99, 99)\n")
    handle.remove()


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


def test_what_it_forks_before_it_is_confined_is_confined_as_well() -> None:
    source = """
    import os, resource, signal, sys, time
    from worker.keeper import job, prctl, procfs
    prctl.adopt_orphans()
    forks = "sleep 600 & (sleep 600 &); (ulimit -n 33; exec sleep 600) & wait"
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", forks], dict(os.environ), setsid=True)
    sleeps = []
    while len(sleeps) < 3:
        time.sleep(0.01)
        below = procfs.below(os.getpid())
        lines = [procfs.read_bytes(f"/proc/{one}/cmdline") for one in below]
        sleeps = [one for one in lines if one.startswith(b"sleep")]
    other = os.posix_spawn("/bin/sleep", ["sleep", "600"], dict(os.environ))
    job.confine(pid, [(resource.RLIMIT_NOFILE, 77)], [other])
    at = procfs.below(os.getpid())
    hard = {one: resource.prlimit(one, resource.RLIMIT_NOFILE)[1] for one in at}
    print(hard.pop(other) == resource.getrlimit(resource.RLIMIT_NOFILE)[1], *sorted(hard.values()))
    os.killpg(pid, signal.SIGKILL)
    os.kill(other, signal.SIGKILL)
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert ran.stdout == "True 33 77 77 77\n"


@pytest.mark.parametrize("when", ["before it is looked at", "before it is changed"])
def test_what_has_got_a_forked_processs_pid_is_not_confined(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was seen below the job, has ended, and whose pid is another's by now."""
    import os
    import resource

    from worker.keeper import job

    reader, writer = os.pipe()
    sleeper = ["/bin/sh", "-c", "sleep 60 & echo $!; wait"]
    with (
        subprocess.Popen(sleeper, stdout=writer) as other,
        subprocess.Popen(["sleep", "60"]) as one,
    ):
        stranger = int(os.read(reader, 20))
        os.close(writer)
        os.close(reader)
        real, looks = procfs.process, 0

        def process(pid: int) -> procfs.Process | None:
            """The stranger's parent is looked at as if it were the job's, the first time."""
            nonlocal looks
            found = real(pid)
            if found is not None and pid == stranger and when == "before it is changed":
                looks += 1
                found.parent, found.start = one.pid, found.start - (looks == 1)
            return found

        monkeypatch.setattr(procfs, "below", lambda root: [stranger])
        monkeypatch.setattr(procfs, "children", lambda root: [])
        monkeypatch.setattr(procfs, "process", process)
        before = resource.prlimit(stranger, resource.RLIMIT_NOFILE)
        job.confine(one.pid, [(resource.RLIMIT_NOFILE, 77)])
        assert resource.prlimit(one.pid, resource.RLIMIT_NOFILE) == (77, 77)
        assert resource.prlimit(stranger, resource.RLIMIT_NOFILE) == before
        os.kill(stranger, signal.SIGKILL)
        one.kill()
        other.kill()
