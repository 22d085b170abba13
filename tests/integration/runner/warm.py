"""Runs of the runner by fork from a process that has its libraries loaded.

Loading scikit-learn or PyTorch takes longer than what most tests train. `Warm` starts one such
process for each Python, which forks for each run; a run is a process of its own all the same, with
its own environment, directories and descriptors. Runs that shall begin cold do not use it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[3]
_LOADED = ("numpy", "sklearn.datasets", "sklearn.neural_network", "torch")


class Warm:
    """The process that forks, and how to speak with it."""

    def __init__(self, python: str) -> None:
        self._process = subprocess.Popen(
            [python, "-m", "tests.integration.runner.warm"],
            cwd=ROOT,
            env={"PATH": os.defpath, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def ask(self, **request: Any) -> Any:
        """One question, one answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End it."""
        self._process.communicate()


class Forked:
    """A run: what the tests use of `subprocess.Popen`."""

    def __init__(
        self, warm: Warm, argument: str, *, cwd: Path, env: Mapping[str, str], out: Path, err: Path
    ) -> None:
        self._warm = warm
        self._code: int | None = None
        self.pid: int = warm.ask(
            argument=argument, cwd=str(cwd), env=dict(env), out=str(out), err=str(err)
        )

    def poll(self) -> int | None:
        if self._code is None:
            self._code = self._warm.ask(pid=self.pid)
        return self._code

    def wait(self, timeout: float = 60) -> int:
        wait_until(lambda: self.poll() is not None, timeout=timeout, what="the end of a run")
        assert self._code is not None
        return self._code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:  # not reaped before, so the pid is still its own
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _fork(request: Mapping[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.setpgid(0, 0)
        files = [(os.devnull, os.O_RDONLY), *((request[k], os.O_WRONLY) for k in ("out", "err"))]
        for fd, (path, flags) in enumerate(files):
            os.dup2(os.open(path, flags), fd)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
        os.environ.clear()
        os.environ.update(request["env"])
        os.chdir(request["cwd"])
        from worker.runner.__main__ import main

        code = main([request["argument"]])
        sys.stderr.flush()
    finally:
        os._exit(code)


def _serve() -> None:
    for name in _LOADED:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(name)
    import worker.runner.session  # noqa: F401  # to have it loaded

    for line in sys.stdin.buffer:
        request = json.loads(line)
        if "pid" in request:
            pid, status = os.waitpid(request["pid"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = _fork(request)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve()
