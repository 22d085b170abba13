"""The command ``cyxwiz`` as its users run it: a process of its own, with its exit code."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.waiting import wait_until
from worker.keeper import procfs

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "worker.cli")


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its stdout as one JSON object."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """Its stdout as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]


@dataclass(kw_only=True)
class Cli:
    """Runs ``cyxwiz`` with an environment that names nothing of the project's but ``env``."""

    cwd: Path
    env: Mapping[str, str] = field(default_factory=dict)

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        clean = {name: text for name, text in os.environ.items() if not name.startswith("CYXWIZ_")}
        clean |= {"PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "120"}
        # nothing of this host's own node
        clean["XDG_STATE_HOME"] = str(self.cwd / "xdg-state")
        return {**clean, **self.env, **(more or {})}

    def __call__(
        self, *args: str, stdin: str = "", env: Mapping[str, str] | None = None, timeout: float = 60
    ) -> Done:
        """Run it to its end, in a process forked from one that has loaded its libraries."""
        said = tuple(self.cwd / f"{os.urandom(4).hex()}.{name}" for name in ("in", "out", "err"))
        said[0].write_text(stdin)
        process = _warm().Process(target=_main, args=(args, said, self.cwd, self.environment(env)))
        process.start()
        process.join(timeout)
        assert process.exitcode is not None, f"{args} did not end within {timeout} s"
        done = Done(process.exitcode, *(path.read_text(errors="replace") for path in said[1:]))
        for path in said:
            path.unlink()
        return done

    def fresh(self, *args: str, env: Mapping[str, str] | None = None, timeout: float = 90) -> Done:
        """Run it to its end, from the start of the interpreter on, with pipes."""
        done = subprocess.run(
            [*COMMAND, *args],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=self.cwd,
            env=self.environment(env),
            timeout=timeout,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def start(self, *args: str, env: Mapping[str, str] | None = None) -> Started:
        """Start it and go on; its output goes to files."""
        return Started(self, args, env)

    def on_terminal(self, *args: str, timeout: float = 60) -> Done:
        """Run it to its end on a terminal, where stdout and stderr are one."""
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [*COMMAND, *args],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=self.cwd,
            env=self.environment(),
        )
        os.close(theirs)
        said = bytearray()
        try:
            with suppress(OSError):  # EIO: the last one that had the terminal has ended
                while block := os.read(ours, 65536):
                    said += block
            return Done(process.wait(timeout), said.decode(errors="replace"), "")
        finally:
            os.close(ours)
            if process.poll() is None:
                process.kill()
                process.wait()


@functools.cache
def _warm() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            *("pytest", "tests.support.cli", "tasks.celery", "tasks.following", "worker.config"),
            *("worker.cli.submit", "worker.cli.views", "worker.node.agent", "tasks.listing"),
            *("worker.cli.job", "worker.cli.logs", "worker.cli.retry", "worker.cli.control"),
        ]
    )
    return context


def _main(
    args: tuple[str, ...], said: tuple[Path, Path, Path], cwd: Path, environment: dict[str, str]
) -> None:
    """In the fork: what the interpreter does before it runs ``cyxwiz``, then that."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for number, path in enumerate(said):
        fd = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(fd, number)
        os.close(fd)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115 - fds
    from worker.cli import main

    main(args)


class Started:
    """A command that runs."""

    def __init__(self, cli: Cli, args: tuple[str, ...], env: Mapping[str, str] | None) -> None:
        stem = cli.cwd / f"started-{os.urandom(4).hex()}"
        self._out, self._err = stem.with_suffix(".out"), stem.with_suffix(".err")
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [*COMMAND, *args], stdout=out, stderr=err, cwd=cli.cwd, env=cli.environment(env)
            )

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def wait_said(self, text: str, timeout: float = 40) -> None:
        """Until its stdout has ``text``."""

        def said() -> bool:
            if text in self.out:
                return True
            assert self.process.poll() is None, f"ended: {self.out}{self.err}"
            return False

        wait_until(said, timeout=timeout, what=text)

    def end(self, number: int = signal.SIGTERM, timeout: float = 40) -> Done:
        """Send it a signal; how it ended."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return Done(self.process.wait(timeout), self.out, self.err)

    def close(self) -> None:
        """End it, if a test has not."""
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            if self.process.poll() is not None:
                return
            self.process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(10)


def mentioning(directory: Path | str) -> list[str]:
    """Living processes with ``directory`` in their command line or environment."""
    marker = str(directory).encode()
    found = []
    for pid in procfs.pids():
        entry = procfs.process(pid)
        if pid == os.getpid() or entry is None or entry.dead:
            continue
        command = procfs.read_bytes(f"/proc/{pid}/cmdline") or b""
        environ = procfs.read_bytes(f"/proc/{pid}/environ") or b""
        if marker in command or marker in environ:
            found.append(f"{pid} {command!r}")
    return found
