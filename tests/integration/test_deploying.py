"""What docs/deploy.md and docs/security.md tell an operator to do, done here as it stands there."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tasks.errors import RedisUnavailable
from tasks.job import JobConfig
from tasks.settings import Settings
from tasks.state import JobState
from tests.support.certificates import Authority
from tests.support.cli import Cli
from tests.support.cluster import Cluster
from tests.support.live_node import LiveNode
from tests.support.redis_server import RedisServer, free_port, redis_binary
from tests.support.waiting import wait_until
from worker.config import load
from worker.trust.keyfile import read_key

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
UNIT = (ROOT / "compose" / "cyxwiz-node.service").read_text()


def block(page: str, language: str, having: str) -> str:
    """The one block of a page that has some text in it."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    found = re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (one,) = [part for part in found if having in part]
    return str(one)


def plain_block(page: str, having: str) -> str:
    """As `block`, of one without a language."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    (one,) = [part for part in text.split("\n```\n")[1:] if having in part]
    return one.partition("```")[0]


def test_redis_with_the_settings_of_the_page_and_the_accounts_of_the_command(
    tmp_path: Path,
) -> None:
    cli = Cli(cwd=tmp_path)
    (line,) = block("security.md", "sh", "cyxwiz acl").splitlines()
    command, _, target = line.partition("#")[0].partition(">>")
    made = cli(*shlex.split(command)[1:])
    assert made.code == 0, made
    assert target.strip() == "users.acl"
    users = tmp_path / "users.acl"
    users.write_text(f"user default off\n{made.out}")
    password = made.err.rpartition(": ")[2].strip()

    authority = Authority(tmp_path)
    certificate, key = authority.server()
    port = free_port()
    settings = plain_block("security.md", "aclfile /etc")
    for there, here in (
        ("/etc/redis/redis.pem", certificate),
        ("/etc/redis/redis.key", key),
        ("/etc/redis/ca.pem", authority.path),
        ("/etc/redis/users.acl", users),
        ("tls-port 6379", f"tls-port {port}"),
    ):
        assert there in settings
        settings = settings.replace(there, str(here))
    conf = tmp_path / "redis.conf"
    conf.write_text(f"{settings}\ndir {tmp_path}\n")
    binary = redis_binary()
    assert binary is not None
    with (tmp_path / "redis.log").open("wb") as log:
        server = subprocess.Popen([binary, str(conf)], stdout=log, stderr=log)
    try:
        (url,) = re.findall(r"rediss://[^']+", block("security.md", "sh", "rediss://"))
        url = url.replace("PASSWORD@redis.example:6379", f"{password}@127.0.0.1:{port}")
        url = url.replace("/etc/cyxwiz/ca.pem", str(authority.path))

        def answers() -> bool:
            assert server.poll() is None, (tmp_path / "redis.log").read_text()
            try:
                Settings(redis_url=url).check()
            except RedisUnavailable:
                return False
            return True

        wait_until(answers, what="Redis")
        client = Settings(redis_url=url).connect()
        assert client.acl_whoami() == "node-a"
        client.close()
        with pytest.raises(RedisUnavailable):
            Settings(redis_url=url.replace(password, "x" * 20)).check()
    finally:
        server.terminate()
        server.wait(20)


def setting(name: str) -> str:
    """Of the unit; of an environment, without its quotes."""
    (value,) = re.findall(rf"^{name}=(.*)$", UNIT, re.MULTILINE)
    return str(value)


@contextmanager
def notified(path: Path) -> Iterator[socket.socket]:
    """The socket at which systemd would be told."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        listener.settimeout(60)
        yield listener


def heard(listener: socket.socket, what: bytes) -> None:
    while what not in listener.recv(4096):
        pass


def test_the_unit_is_started_reloaded_stopped_and_started_as_systemd_would(tmp_path: Path) -> None:
    """Its commands, its notifications and its signal; no systemd is here. A stop is no end of a
    job, and the next start goes on with it."""
    assert (setting("Type"), setting("KillMode")) == ("notify", "process")
    # what stood there no command that is said by hand would know
    assert not re.search("^Environment=", UNIT, re.MULTILINE)
    program, *arguments = shlex.split(setting("ExecStart"))
    assert Path(program).name == "cyxwiz"
    number = signal.Signals[setting("KillSignal")]
    with RedisServer() as server, notified(tmp_path / "notify") as listener:
        node = LiveNode(directory=tmp_path / "node", redis_url=server.url)
        node.directory.mkdir()
        env = {
            **{key: text for key, text in os.environ.items() if not key.startswith("CYXWIZ_")},
            "CYXWIZ_CONFIG": str(node.write_config()),
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
        }

        def start() -> None:
            with node.log.open("ab") as log:
                node.process = subprocess.Popen(
                    [sys.executable, "-m", "worker.cli", *arguments],
                    stdout=log, stderr=log, env=env, cwd=ROOT,
                )  # fmt: skip
            heard(listener, b"READY=1")

        cluster = Cluster.of(node)
        try:
            start()
            job = cluster.shell("until [ -e go ]; do sleep 0.05; done; echo over")
            cluster.wait_state(job, JobState.RUNNING)
            (scratch,) = [
                path for path in node.paths.work.iterdir() if path.name.startswith(job.id)
            ]
            process = node.process
            assert process is not None
            reload = setting("ExecReload").replace("$MAINPID", str(process.pid))
            subprocess.run(shlex.split(reload), check=True)
            wait_until(lambda: "configuration read again" in node.said, what="a reload")
            process.send_signal(number)
            heard(listener, b"STOPPING=1")
            assert process.wait(int(setting("TimeoutStopSec"))) == 0
            assert cluster.record(job).state is JobState.RUNNING
            assert node.job_pids()
            start()
            (scratch / "go").touch()
            assert cluster.wait_state(job).attempt == 1
            assert cluster.logged(job) == ["over"]
        finally:
            cluster.close()
            node.close()


def test_the_unit_leaves_the_node_what_it_needs_of_the_host() -> None:
    """A rootless Podman's socket is beneath /run/user, which ProtectHome would hide."""
    assert "ProtectHome" not in [line.partition("=")[0] for line in UNIT.splitlines()]
    assert "/run" not in setting("InaccessiblePaths")
    assert {"/var/lib/cyxwiz", "/tmp"} <= set(setting("ReadWritePaths").split())


STANDS_IN = """\
#!/bin/sh
printf '%s\\n' "$(basename "$0") $*" >> "$SAID"
"""
PROGRAMS = {
    # an editor does what the line's comment says
    "editor": """\
#!/bin/sh
case "$1" in
  alice.pub) sed -i 's/native: false/native: true/' "$1" ;;
  server-node.yaml) echo 'trust: {keys: [/etc/cyxwiz/keys/alice.pub]}' >> "$1" ;;
esac
""",
    "sudo": '#!/bin/sh\nexec "$@"\n',
    "docker": STANDS_IN,
    "cyxwiz": f"""\
#!/bin/sh
[ "$1" != submit ] || {{ printf '%s\\n' "cyxwiz $*" >> "$SAID"; exit; }}
exec {sys.executable} -m worker.cli "$@"
""",
}


def test_a_key_that_is_put_where_the_page_says_is_one_that_compose_nodes_take(
    tmp_path: Path,
) -> None:
    place, programs, said = tmp_path / "compose", tmp_path / "bin", tmp_path / "said"
    place.mkdir()
    programs.mkdir()
    (place / "keys").mkdir()
    shutil.copy(ROOT / "compose" / "server-node.yaml", place)
    for name, text in PROGRAMS.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    script = block("deploy.md", "sh", "cyxwiz keys new")
    if os.geteuid() != 0:  # the node's user then
        script = script.replace("-o root -g root", "")
    env = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "EDITOR": "editor",
        "SAID": str(said),
    }
    subprocess.run(
        ["sh", "-euc", f"umask 002\n{script}"], cwd=place, env=env, check=True, timeout=60
    )
    key = read_key(place / "keys" / "alice.pub")
    assert (key.name, key.scope.native) == ("alice", True)
    assert load(place / "server-node.yaml").trust.keys == (Path("/etc/cyxwiz/keys/alice.pub"),)
    up, submit = said.read_text().splitlines()
    assert up.startswith("docker compose up")
    assert up.endswith(" --force-recreate node"), "Compose sees no change of a file that it mounts"
    job = shlex.split(submit)[2]
    JobConfig.parse((ROOT / "compose" / job).read_text())
