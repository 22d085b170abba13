"""What is planted is found."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos import left
from tests.chaos.injector import Host
from tests.chaos.link import Link
from tests.support.live_node import LiveNode
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until
from tests.support.wall_clock import WallClock

pytestmark = pytest.mark.integration


def test_processes_leases_directories_and_keys(tmp_path: Path) -> None:
    with RedisServer() as server:
        client = server.client()
        node = LiveNode(directory=tmp_path / "node", redis_url=server.url)
        node.paths.create()
        host = Host(node, Link(server.socket), WallClock(tmp_path / "clock"))
        client.set("cyxwiz:node:node-a", "{}")
        client.set("cyxwiz:job:old", "{}", ex=100)
        assert left.found(tmp_path, [host], client, None) == {}

        client.set("cyxwiz:job:forgotten", "{}")
        (node.paths.attempts / "forgotten~1").mkdir()
        lease = node.paths.leases / "cpu0.lock"
        program = "import time; time.sleep(600)"
        words = [sys.executable, "-I", "-S", "-c", program, str(tmp_path / "log")]
        with lease.open("w") as held, subprocess.Popen(words) as process:
            fcntl.flock(held, fcntl.LOCK_EX)
            wait_until(lambda: "processes of jobs" in left.found(tmp_path, [host], client, None))
            assert left.found(tmp_path, [host], client, None) == {
                "node-a attempts": ["forgotten~1"],
                "processes of jobs": [str(process.pid)],
                "leases": [str(lease)],
                "keys": ["cyxwiz:job:forgotten (string)"],
            }
            process.kill()
        client.close()


def test_a_process_of_a_stopped_node(tmp_path: Path) -> None:
    with RedisServer() as server:
        node = LiveNode(directory=tmp_path / "node", redis_url=server.url)
        node.paths.create()
        host = Host(node, Link(server.socket), WallClock(tmp_path / "clock"))
        assert left.serving([host]) == []
        words = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"]
        lock = node.paths.leases / "cpu0.lock"
        with lock.open("w") as opened, subprocess.Popen(words, stdout=opened, cwd="/") as process:
            assert [one.split()[0] for one in left.serving([host])] == [str(process.pid)]
            process.kill()
        assert left.serving([host]) == []
