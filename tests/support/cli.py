"""The command ``cyxwiz`` as its users run it: a process of its own, with its exit code."""

from __future__ import annotations

import json
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
        """Run it to its end, with pipes."""
        done = subprocess.run(
            [*COMMAND, *args],
            input=stdin,
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
