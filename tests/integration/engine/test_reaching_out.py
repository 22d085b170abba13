"""Jobs that reach for what is not theirs get nothing of it, in a hardened container of each engine.

The `jobs` fixture checks what is left.
"""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.engine.jobs import REFUSED, Jobs, up
from tests.support import engine
from tests.support.listeners import RAW, listeners, tries, with_the_hosts_network
from tests.support.networks import network
from tests.support.runtimes import hear

pytestmark = pytest.mark.integration


@pytest.fixture
def jobs(jobs_of_each_engine: Jobs) -> Jobs:
    return jobs_of_each_engine


def test_writes_where_it_may_not(jobs: Jobs, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "given").write_text("untouched")
    heard, _ = jobs.run(
        REFUSED
        + "for path in ('/x', '/etc/x', '/job/x', '/usr/x', '/dev/x', '/job/data/x', '/proc/x',\n"
        "             '/sys/x', '/job/data/given', '/proc/sysrq-trigger', '/var/x', '/run/x',\n"
        "             '/proc/sys/kernel/core_pattern', '/sys/fs/cgroup/x'):\n"
        "    refused(path, lambda: open(path, 'w'))\n",
        data=data,
    )
    assert b"DONE" not in heard.out
    assert heard.out.count(b"refused") == 14
    assert (data / "given").read_text() == "untouched"


def test_reaches_no_network(jobs: Jobs) -> None:
    """Nothing of what a container with the host's network does reach."""
    client = engine.raw(jobs.socket)
    with ExitStack() as stack:
        stack.callback(client.close)
        addresses = _own_address()
        if jobs.engine != "podman":  # this host may have no other, and root can make one
            addresses = [stack.enter_context(network(client)).gateway]
        found = stack.enter_context(listeners(*addresses))
        found["engine"] = ("AF_UNIX", "SOCK_STREAM", str(jobs.socket))
        # rootless, nobody has a right to the host's network beside using it
        rights = RAW if jobs.engine != "podman" else {}
        control = with_the_hosts_network(client, tries({**found, **rights}), jobs.socket)
        reached = {line.split()[1] for line in control.splitlines() if line[:7] == "REACHED"}
        assert reached == {*found, *rights}, control
        heard, _ = jobs.run(tries({**found, **RAW}))
        assert heard.out.count(b"refused") == len(found) + len(RAW), heard.out
        assert b"REACHED" not in heard.out


def _own_address() -> list[str]:
    """This host's towards elsewhere; none where there is no way to anywhere."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        try:
            made.connect(("192.0.2.1", 9))
        except OSError:
            return []
        return [made.getsockname()[0]]


def test_raises_no_privilege(jobs: Jobs) -> None:
    heard, _ = jobs.run(
        "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        + REFUSED
        + "def call(name, *args):\n"
        "    if getattr(libc, name)(*args) != 0:\n"
        "        raise OSError(ctypes.get_errno(), name)\n"
        "refused('mount', lambda: call('mount', b'none', b'/tmp', b'tmpfs', 0, None))\n"
        "refused('umount', lambda: call('umount2', b'/job/output', 0))\n"
        "refused('unshare', lambda: call('unshare', 0x10000000))\n"
        "refused('userns+net', lambda: call('unshare', 0x50000000))\n"
        "refused('setuid', lambda: os.setuid(0))\n"
        "refused('setgroups', lambda: os.setgroups([0]))\n"
        "refused('mknod', lambda: os.mknod('/job/output/disk', 0o60600, os.makedev(8, 0)))\n"
        "refused('chroot', lambda: os.chroot('/tmp'))\n"
        "refused('nice', lambda: os.nice(-5))\n"
        "refused('kexec', lambda: call('reboot', 0))\n"
        "refused('keys', lambda: call('syscall', 248, b'user', b'x', b'y', 1, -2))\n"
    )
    made = {line.split()[1] for line in heard.out.decode().splitlines() if line[:4] == "DONE"}
    # of gVisor's own kernel a job may have more, as long as the host's has no part in it
    assert made <= ({"unshare", "chroot", "nice"} if jobs.engine == "gvisor" else set())
    assert heard.out.count(b"refused") == 11 - len(made)


def test_a_planted_setuid_program_gives_nothing(jobs: Jobs) -> None:
    heard, _ = jobs.run(
        "import os, shutil, subprocess, sys\n"
        "shutil.copy('/bin/sh', '/job/output/sh'); os.chmod('/job/output/sh', 0o6755)\n"
        "import ctypes; print(ctypes.CDLL(None).prctl(39, 0, 0, 0, 0))\n"
        "shutil.copy('/bin/cat', '/tmp/cat'); os.chmod('/tmp/cat', 0o755)\n"
        "try: subprocess.run(['/tmp/cat', '/dev/null'])\n"
        "except PermissionError: print('noexec')"
    )
    assert heard.out == b"1\nnoexec\n"


def test_sees_nothing_of_others(jobs: Jobs) -> None:
    other = jobs.start("import time; open('/job/output/secret', 'w'); print('up'); time.sleep(600)")
    hear(other, until=up)
    heard, _ = jobs.run(
        "import os\n"
        "pids = [name for name in os.listdir('/proc') if name.isdigit()]\n"
        "found = [os.path.join(at, f) for top in ('/job', '/tmp') for at, _, fs in os.walk(top)\n"
        "         for f in fs]\n"
        "print(len(pids), found, sorted(os.listdir('/job')))"
    )
    assert heard.out == b"2 [] ['checkpoints', 'output']\n"


def test_the_environment_holds_nothing_of_the_nodes(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://user:secret@proxy.example")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    heard, _ = jobs.run(
        "import os; print(sorted(os.environ))",
        env={"MINE": "1", "NVIDIA_VISIBLE_DEVICES": "all", "NVIDIA_DRIVER_CAPABILITIES": "all"},
    )
    assert heard.out == b"['HOME', 'HOSTNAME', 'MINE', 'NVIDIA_VISIBLE_DEVICES', 'PATH']\n"


def test_a_device_asked_for_by_the_environment_is_void(jobs: Jobs) -> None:
    heard, _ = jobs.run(
        "import os; print(os.environ['NVIDIA_VISIBLE_DEVICES'])",
        env={"NVIDIA_VISIBLE_DEVICES": "all"},
    )
    assert heard.out == b"void\n"
