"""A Redis with a replica, and three Sentinels that watch them: all real, on 127.0.0.1."""

from __future__ import annotations

import shutil
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Self

import redis

from tests.support.redis_server import MISSING, free_port, redis_binary, short_directory
from tests.support.waiting import wait_until
from worker.node.tied import tied_command

NAME = "primary"
_CONF = """port {port}
bind 127.0.0.1
dir {dir}
sentinel monitor {name} 127.0.0.1 {primary} 2
sentinel down-after-milliseconds {name} 1000
sentinel failover-timeout {name} 5000
"""


class Sentinels:
    """A context manager. Whatever was started ends with this process."""

    def __init__(self) -> None:
        self._directory = short_directory()
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="sentinel-starter")
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self.servers = [free_port(), free_port()]
        self.sentinels = [free_port() for _ in range(3)]

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.sentinels)
        return f"sentinel://{hosts}/0?name={NAME}"

    def __enter__(self) -> Self:
        primary, replica = self.servers
        self._serve(primary)
        self._serve(replica, "--replicaof", f"127.0.0.1 {primary}")
        for port in self.sentinels:
            place = self._directory / f"sentinel-{port}"
            place.mkdir()
            file = place / "sentinel.conf"
            file.write_text(_CONF.format(port=port, dir=place, name=NAME, primary=primary))
            self._start(port, [str(file), "--sentinel"])
        wait_until(self._watched, timeout=40, what="Sentinels that know each other and a replica")
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait(10)
        self._starter.shutdown()
        shutil.rmtree(self._directory, ignore_errors=True)

    def primary(self) -> int:
        """The port of the primary, as a Sentinel has it."""
        with redis.Redis(port=self.sentinels[0], decode_responses=True) as client:
            return int(client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME)[1])

    def kill_primary(self) -> int:
        """Its port. Returns at once: the Sentinels are yet to notice."""
        port = self.primary()
        self._processes[port].send_signal(signal.SIGKILL)
        self._processes[port].wait(10)
        return port

    def _watched(self) -> bool:
        try:
            for port in self.sentinels:
                with redis.Redis(port=port, decode_responses=True) as client:
                    found = client.execute_command("SENTINEL", "MASTER", NAME)
                    if not isinstance(found, dict):
                        found = dict(zip(found[::2], found[1::2], strict=True))
                    if int(found["num-other-sentinels"]) < 2 or int(found["num-slaves"]) < 1:
                        return False
        except redis.RedisError:
            return False
        return True

    def _serve(self, port: int, *more: str) -> None:
        place = self._directory / f"redis-{port}"
        place.mkdir()
        options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(place), "--save", ""]
        options += ["--appendonly", "yes", "--repl-diskless-sync-delay", "0"]
        self._start(port, [*options, *more])

    def _start(self, port: int, arguments: list[str]) -> None:
        binary = redis_binary()
        assert binary, MISSING
        command = tied_command([binary, *arguments], signal.SIGKILL)
        self._processes[port] = self._starter.submit(self._popen, command, port).result()

    def _popen(self, command: list[str], port: int) -> subprocess.Popen[bytes]:
        with (self._directory / f"{port}.log").open("wb") as log:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
