"""A real redis-server of the tests' own, which they may kill, restart and freeze."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.waiting import wait_until
from worker.node.tied import tied_command

MISSING = "redis-server is not on PATH (Debian: apt-get install redis-server)"
_PATH_BYTES = 107
"""What an AF_UNIX path has room for."""


def redis_binary() -> str | None:
    """Where redis-server is; None if it is not installed."""
    return shutil.which("redis-server")


class RedisServer:
    """One redis-server on a Unix socket in a private directory, with its AOF on.

    What was answered survives `kill` and `restart`. It ends with this process, whatever happens.
    A context manager: ``with RedisServer() as server``.
    """

    def __init__(
        self,
        *,
        directory: Path | None = None,
        tcp: bool = False,
        more: Mapping[str, str] | None = None,
    ) -> None:
        """Nothing is started yet.

        ``directory``: where socket and data go; by default a new one, removed by `close`.
        ``tcp``: listen on a free port of 127.0.0.1 as well (`tcp_url`). ``more``: further settings
        of redis.conf.
        """
        self._own_directory = directory is None
        self.directory = directory or short_directory()
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.socket = self.directory / "redis.sock"
        assert len(str(self.socket).encode()) <= _PATH_BYTES, f"too long: {self.socket}"
        self._tcp = tcp
        self._more = dict(more or {})
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        # The server is tied to the thread that starts it, so that is always this one.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="redis-starter")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """By its socket."""
        return f"unix://{self.socket}"

    @property
    def tcp_url(self) -> str:
        """By TCP, where ``tcp`` was asked for."""
        assert self.port, "this server has no TCP port: RedisServer(tcp=True)"
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def log(self) -> str:
        """What the server says."""
        return (self.directory / "redis.log").read_text(errors="replace")

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def client(self, *, decode: bool = True) -> redis.Redis:
        """A client by the socket, without retries; the caller closes it."""
        return redis.Redis(
            unix_socket_path=str(self.socket),
            decode_responses=decode,
            retry=Retry(NoBackoff(), 0),
        )

    def start(self) -> Self:
        """Start it and wait until it has loaded its data and answers. Nothing if it runs."""
        if self.running:
            return self
        if self._tcp and not self.port:
            self.port = free_port()
        self.process = self._starter.submit(self._launch).result()
        client = self.client()

        def answers() -> bool:
            assert self.running, f"redis-server ended:\n{self.log}"
            with suppress(redis.RedisError):
                return bool(client.ping())
            return False

        try:
            wait_until(answers, timeout=20, what="redis-server")
        finally:
            client.close()
        return self

    def stop(self) -> None:
        """SIGTERM: it ends in good order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL: it ends at once."""
        self._end(signal.SIGKILL)

    def restart(self) -> Self:
        """Kill it if it runs, and start it on the same data, socket and port."""
        self.kill()
        return self.start()

    def freeze(self) -> None:
        """SIGSTOP: connections stay open and nothing answers, until `thaw`."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT. Nothing if it is not frozen."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)

    def heal(self) -> Self:
        """Have it run, thawed, with no client left over and no data."""
        self.thaw()
        self.start()
        client = self.client()
        try:
            client.config_resetstat()
            client.flushall()
        finally:
            client.close()
        return self

    def close(self) -> None:
        """End it and remove its directory. Safe to call twice."""
        self.kill()
        self._starter.shutdown()
        if self._own_directory:
            shutil.rmtree(self.directory, ignore_errors=True)

    def _launch(self) -> subprocess.Popen[bytes]:
        binary = redis_binary()
        assert binary, MISSING
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "unixsocket": str(self.socket),
            "unixsocketperm": "600",
            "dir": str(self.directory),
            "logfile": str(self.directory / "redis.log"),
            "save": "",
            "appendonly": "yes",
            "daemonize": "no",
            **self._more,
        }
        arguments = [word for key, value in options.items() for word in (f"--{key}", value)]
        return subprocess.Popen(
            tied_command([binary, *arguments], signal.SIGKILL),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _end(self, number: int) -> None:
        process = self.process
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(number)
            process.send_signal(signal.SIGCONT)  # a frozen one would keep a SIGTERM waiting
        process.wait(20)
        self.process = None


def short_directory(root: str | None = None) -> Path:
    """A new private directory, in ``root`` or where temporary files go, if that is not too long:
    it leaves room for the names of sockets."""
    made = Path(tempfile.mkdtemp(prefix="cyxr-", dir=root))
    if len(str(made).encode()) <= _PATH_BYTES - 67:
        return made
    made.rmdir()
    return Path(tempfile.mkdtemp(prefix="cyxr-", dir="/tmp"))


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
